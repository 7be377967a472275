"""Decoding what is there of a truncated file, for one caller at a time and no other.

Pillow has one switch for the whole process, `ImageFile.LOAD_TRUNCATED_IMAGES`, whose truth its readers ask. Here it
becomes a switch that answers each thread (and each asyncio task) for itself, so that pipelines with and without
`allow_truncated` may run in one process; whatever else uses Pillow gets the answer it set before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from caption_assets.media.pixels import Pixels

_GREY = 128
_NEARLY = 2
_BLANK_SHARE = 0.95
_INKS: dict[str, Any] = {
    "L": _GREY,
    "LA": (_GREY, 255),
    "RGB": (_GREY,) * 3,
    "RGBX": (_GREY,) * 4,
    "RGBA": (_GREY, _GREY, _GREY, 255),
    "CMYK": (0, 0, 0, 255 - _GREY),
    "YCbCr": (_GREY,) * 3,
    "I;16": _GREY * 257,
}
_allowed: ContextVar[bool | None] = ContextVar("allowed", default=None)


class _Switch:
    """True or false, whoever asks."""

    def __init__(self, elsewhere: object) -> None:
        self.elsewhere = elsewhere

    def __bool__(self) -> bool:
        allowed = _allowed.get()
        return bool(self.elsewhere) if allowed is None else allowed


@contextmanager
def truncated_files(allowed: bool) -> Iterator[None]:
    """Within, this thread's Pillow decodes truncated files as far as they go, or refuses them, whatever others do."""
    if not isinstance(ImageFile.LOAD_TRUNCATED_IMAGES, _Switch):  # also where another library has set it since
        ImageFile.LOAD_TRUNCATED_IMAGES = _Switch(ImageFile.LOAD_TRUNCATED_IMAGES)  # type: ignore[assignment]
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def start_grey(image: Image.Image) -> None:
    """Let a picture that was opened begin as grey, so that what is missing of it will be; in a palette, the nearest."""
    ink = _nearest_grey(image) if image.mode == "P" else _INKS.get(image.mode)
    if ink is not None:
        image.im = Image.new(image.mode, image.size, ink).im


def is_blank(pixels: Pixels) -> bool:
    """Whether hardly anything was there of RGB values, (height, width, 3): all is one colour, or 95 of 100 are grey.

    A JPEG's decoder takes the mark of the end, which is put behind what is there, for a block or two.
    """
    grey = np.abs(pixels.astype(np.int16) - _GREY).max(axis=2) <= _NEARLY
    return bool(grey.mean() >= _BLANK_SHARE or (pixels == pixels[0, 0]).all())


def _nearest_grey(image: Image.Image) -> int | None:
    palette = image.palette.palette if image.palette and image.palette.mode == "RGB" else b""
    colors = [palette[start : start + 3] for start in range(0, len(palette) - 2, 3)]
    distances = [sum(abs(value - _GREY) for value in color) for color in colors]
    return distances.index(min(distances)) if distances else None
