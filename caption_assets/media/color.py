"""Bring decoded pixels to what is stored: sRGB, eight bits, opaque."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageCms

_SAME_COLOR = 3  # levels by which profiles that call themselves sRGB differ from each other
_WHITE = (255, 255, 255)


def flatten(image: Image.Image, limits: tuple[float, float] | None = None) -> Image.Image:
    """Eight bits and opaque: deep values scaled, palettes looked up, transparent parts on white.

    Args:
        image: any image, or a band of it.
        limits: of the whole image, from `value_range`.
    """
    if limits is not None:
        image = _to_eight_bits(image, *limits)
    if image.mode in {"P", "PA", "LA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("L") if image.mode == "1" else image


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A flat image as RGB; the profile is applied where it can be."""
    if image.mode == "LAB":
        return _apply(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))) or image.convert("RGB")
    if profile and image.mode in {"RGB", "CMYK", "L"} and not is_srgb(profile):
        converted = _apply(image, _open_profile(profile))
        if converted is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=8)
def is_srgb(profile: bytes) -> bool:
    """Whether a profile's colours are sRGB's: by what it does to a few colours, not by the name it bears."""
    steps = range(0, 256, 51)
    colors = np.array([(r, g, b) for r in steps for g in steps for b in steps], np.uint8).reshape(6, 36, 3)
    converted = _apply(Image.fromarray(colors), _open_profile(profile))
    if converted is None:
        return False
    return bool(np.abs(np.asarray(converted).astype(int) - colors).max() <= _SAME_COLOR)


def _open_profile(profile: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a broken profile says nothing about the pixels


def _apply(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image | None:
    """The image in sRGB; None where the profile does not fit it."""
    if profile is None:
        return None
    try:
        # a profile object per call: the threads of a pool must not share one
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def value_range(mode: str, bands: Callable[[], Iterable[Image.Image]]) -> tuple[float, float] | None:
    """The values that become black and white, of an image deeper than eight bits; None for any other.

    By the format where it says so, else by what is there.

    Args:
        mode: the image's.
        bands: its rows, a few at a time: NumPy copies what it sees.
    """
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    if mode not in {"I", "F"}:
        return None
    lows, highs = [], []
    for band in bands():
        values = np.asarray(band)
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    if not lows:
        return 0.0, 1.0
    low, high = min(lows), max(highs)
    if low >= 0:
        for full in (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0):
            if high <= full:
                return 0.0, full
    return low, high if high > low else low + 1.0


def _to_eight_bits(image: Image.Image, low: float, high: float) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=high, neginf=low)
    return Image.fromarray(np.clip((values - low) / (high - low) * 255.0 + 0.5, 0, 255).astype(np.uint8))
