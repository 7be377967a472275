"""Bring a decoded picture within the pixel budget and encode it for a segment.

A JPEG within the budget that needs neither turning nor another colour space keeps its bytes, less the metadata.
"""

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

_MAX_SIDE = 65_500
"""The longest side that a JPEG encoder takes."""


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
    return f"n2-keepjpeg-{media.max_pixels}-q{media.quality}"


def normalise(picture: Picture, media: Media) -> Normalised:
    """Shrink (never enlarge) to `max_pixels` and encode: a kept JPEG, PNG for small lossless originals, else JPEG."""
    width, height = fit(picture.image.width, picture.image.height, media.max_pixels)
    image = picture.image
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image.info = {}  # nothing that an encoder would copy into the file
    elif picture.jpeg is not None:
        return _normalised(picture.jpeg, "jpg", image)
    buffer = io.BytesIO()
    if picture.lossless and width * height <= _LOSSLESS_PIXELS:
        image.save(buffer, "PNG", compress_level=4)
        return _normalised(buffer.getvalue(), "png", image)
    image.save(buffer, "JPEG", quality=media.quality, subsampling="4:2:0")
    return _normalised(buffer.getvalue(), "jpg", image)


def fit(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The largest size of about these proportions within the budget: no side enlarged, none zero."""
    if width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        if width * height > max_pixels:  # a side was less than one pixel
            width, height = min(width, max_pixels), min(height, max_pixels)
    longest = max(width, height)
    if longest > _MAX_SIDE:
        width, height = max(1, width * _MAX_SIDE // longest), max(1, height * _MAX_SIDE // longest)
    return width, height


def _normalised(data: bytes, extension: str, image: Image.Image) -> Normalised:
    return Normalised(data, extension, image.width, image.height, str(imagehash.phash(image)))
