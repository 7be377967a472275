"""Bring a decoded picture within the pixel budget and encode it for a segment.

A JPEG within the budget that needs neither turning nor another colour space keeps its bytes, less the metadata.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from caption_assets.config import Media
from caption_assets.media.decode import Picture
from caption_assets.media.phash import perceptual_hash
from caption_assets.media.pixels import encode_jpeg
from caption_assets.media.quality import Quality, measure, small_luma

_LOSSLESS_PIXELS = 262_144
"""Drawings and screenshots up to this size stay lossless; they are small, and JPEG hurts their edges."""


@dataclass(frozen=True)
class Normalised:
    """What is stored of a picture."""

    data: bytes
    extension: str
    width: int
    height: int
    phash: str
    quality: Quality


def normalisation_id(media: Media) -> str:
    """Names how pictures are normalised; media rows with another id are stale."""
    chosen = ("-gps" if media.gps else "") + ("-originals" if media.keep_originals else "")
    return f"n4-keepjpeg-{media.max_pixels}-q{media.quality}{chosen}"


def normalise(picture: Picture, media: Media) -> Normalised:
    """Encode what is within the budget: a kept JPEG, PNG for small lossless originals, else JPEG."""
    height, width = picture.pixels.shape[:2]
    if picture.jpeg is not None:
        data, extension = picture.jpeg, "jpg"
    elif picture.lossless and width * height <= _LOSSLESS_PIXELS:
        buffer = io.BytesIO()
        picture.image.save(buffer, "PNG", compress_level=4)
        data, extension = buffer.getvalue(), "png"
    else:
        data, extension = encode_jpeg(picture.pixels, media.quality), "jpg"
    luma = small_luma(picture.pixels)
    return Normalised(data, extension, width, height, perceptual_hash(luma), measure(luma))
