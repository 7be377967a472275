"""Pixels within a budget, the fast way: a JPEG is decoded at a reduced scale, anything else is averaged band by band.

What is left, less than a factor of two, is resampled with a bicubic kernel, aligned to a fraction of a pixel: the last
column of a reduced picture stands for less of the original than the others do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from caption_assets.media.color import flatten, to_srgb, value_range

Pixels = NDArray[np.uint8]
"""RGB values, (height, width, 3)."""

_BAND_PIXELS = 1 << 20
_JPEG_SCALES = 8
"""A JPEG can be decoded at n/8 of its size: a block of 8 x 8 becomes one of n x n."""
_SLOW_SCALES = frozenset({6, 7})
"""libjpeg-turbo's transforms of 6 x 6 and 7 x 7 are not vectorised: all of the picture takes half their time."""
_WHOLE_PIXELS = 16_000_000
"""Bigger pictures are decoded at these scales all the same: it takes less memory."""

_MAX_SIDE = 65_500
"""The longest side that a JPEG encoder takes."""

cv2.setNumThreads(1)  # pictures are worked on side by side already


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


def jpeg_scale(header: tuple[int, int], size: tuple[int, int]) -> int:
    """The n to decode at n/8 for `size`, both as (width, height): the smallest that is not below, or a quicker one."""
    n = max(_JPEG_SCALES * (side - 1) // full + 1 for full, side in zip(header, size))  # ceil(full n / 8) >= side
    if n in _SLOW_SCALES and header[0] * header[1] <= _WHOLE_PIXELS:
        return _JPEG_SCALES
    return min(n, _JPEG_SCALES)


def jpeg_pixels(data: bytes, header: tuple[int, int], size: tuple[int, int]) -> Pixels | None:
    """A grey or colour JPEG at `size` (width, height), no bigger than its header's.

    None where the decoder has any doubt: another one may still be able to tell what is wrong.
    """
    n = jpeg_scale(header, size)
    width, height = (-(-side * n // _JPEG_SCALES) for side in header)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=True, fastupsample=False, min_width=width, min_height=height, strict=True
        )
    except (ValueError, MemoryError):
        return None
    if pixels.shape != (height, width, 3):
        return None  # not the picture that the header spoke of
    extent = header[0] * n / _JPEG_SCALES, header[1] * n / _JPEG_SCALES
    return resample(pixels, extent, size)


def rgb_pixels(image: Image.Image, profile: bytes | None, size: tuple[int, int], extent: tuple[float, float]) -> Pixels:
    """A decoded image of any mode at `size` (width, height), in sRGB, transparent parts on white.

    Only a band of it is converted at a time: as RGB a picture takes up to four times the memory of its palette.

    Args:
        extent: its true width and height, in its pixels, of which the last may lie partly outside.
    """
    rows = band_rows(image.size, size)

    def bands() -> Iterator[Image.Image]:
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            yield image.crop((0, top, image.width, bottom)) if rows < image.height else image

    limits = value_range(image.mode, bands)
    flat = (flatten(band, limits) for band in bands())
    return join_bands(flat, image.size, profile, size, extent)


def band_rows(full: tuple[int, int], size: tuple[int, int]) -> int:
    """How many rows of a picture of `full` size to convert at a time when it is shrunk to `size`."""
    factor = whole_factor(full, size)
    return max(1, _BAND_PIXELS // (full[0] * factor)) * factor


def join_bands(
    bands: Iterable[Image.Image],
    full: tuple[int, int],
    profile: bytes | None,
    size: tuple[int, int],
    extent: tuple[float, float] | None = None,
) -> Pixels:
    """A picture at `size` from its flat bands, which have `band_rows` rows each but for the last.

    Args:
        extent: its true width and height, where these are less than `full`.
    """
    factor = whole_factor(full, size)
    pixels = np.empty((-(-full[1] // factor), -(-full[0] // factor), 3), np.uint8)
    filled = 0
    for band in bands:
        part = np.asarray(to_srgb(band.reduce(factor) if factor > 1 else band, profile))
        pixels[filled : filled + len(part)] = part
        filled += len(part)
    width, height = extent or full
    return resample(pixels, (width / factor, height / factor), size)


def whole_factor(full: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much a picture can be averaged down without falling below `size`."""
    return max(1, min(full[0] // size[0], full[1] // size[1]))


def resample(pixels: Pixels, extent: tuple[float, float], size: tuple[int, int]) -> Pixels:
    """Shrink by less than a factor of two, or not at all.

    Args:
        pixels: a picture whose last row and column may lie partly outside of it.
        extent: its true width and height, in these pixels.
        size: the width and height wanted.
    """
    width, height = size
    if pixels.shape[:2] != (height, width):
        # fx and fy are exact, where a size alone would stretch the whole array over it
        fx, fy = width / extent[0], height / extent[1]
        pixels = np.asarray(cv2.resize(pixels, None, fx=fx, fy=fy, interpolation=cv2.INTER_CUBIC), np.uint8)
        missing = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
        if any(missing):  # the product was rounded down
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        pixels = pixels[:height, :width]
    return np.ascontiguousarray(pixels)


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """A baseline JPEG with chroma at half the resolution (4:2:0) and no metadata."""
    data: bytes = simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=True
    )
    return data
