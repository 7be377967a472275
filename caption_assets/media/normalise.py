"""Bring a decoded picture within the pixel budget and encode it for a segment."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import imagehash
from PIL import Image

from caption_assets.config import Media
from caption_assets.media.decode import Picture

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


def normalisation_id(media: Media) -> str:
    """Names how pictures are normalised; media rows with another id are stale."""
    return f"n1-{media.max_pixels}-q{media.quality}"


def normalise(picture: Picture, media: Media) -> Normalised:
    """Shrink (never enlarge) to `max_pixels` and encode: PNG for small lossless originals, else JPEG."""
    image = picture.image
    if image.width * image.height > media.max_pixels:
        scale = math.sqrt(media.max_pixels / (image.width * image.height))
        size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    lossless = picture.lossless and image.width * image.height <= _LOSSLESS_PIXELS
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", compress_level=4)
    else:
        image.save(buffer, "JPEG", quality=media.quality, subsampling="4:2:0")
    return Normalised(
        data=buffer.getvalue(),
        extension="png" if lossless else "jpg",
        width=image.width,
        height=image.height,
        phash=str(imagehash.phash(image)),
    )
