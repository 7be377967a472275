"""Bring decoded pixels to what is stored: sRGB, eight bits, opaque."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

_BAND_PIXELS = 1 << 20
_SAME_COLOR = 3  # levels by which profiles that call themselves sRGB differ from each other
_WHITE = (255, 255, 255)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, transparent parts on white; the profile is applied where it can be."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        image = _to_eight_bits(image)
    if image.mode in {"P", "PA", "LA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(image, mask=image.getchannel("A"))
        image = canvas
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


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep grey values to 0-255, a band of rows at a time: the intermediate numbers are eight times as big."""
    values = np.asarray(image)
    low, high = _range(values, image.mode)
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        band = np.nan_to_num(values[top : top + rows].astype(np.float64), posinf=high, neginf=low)
        scaled[top : top + rows] = np.clip((band - low) / (high - low) * 255.0 + 0.5, 0, 255)
    return Image.fromarray(scaled)


def _range(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], mode: str) -> tuple[float, float]:
    """The values that become black and white: by the format where it says so, else by what is there."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low >= 0:
        for full in (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0):
            if high <= full:
                return 0.0, full
    return low, high if high > low else low + 1.0
