"""Decode a picture with limits: upright, sRGB, eight bits, opaque, first frame. Every defect is a `DecodeError`."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from caption_assets.lake.tables import MediaFailureKind

Image.MAX_IMAGE_PIXELS = None  # decode() has its own limit, checked before pixels are allocated

_SRGB = ImageCms.createProfile("sRGB")
_EXIF_COLUMNS = ("DateTime", "DateTimeOriginal", "Make", "Model", "LensModel", "Software", "ImageDescription", "Artist")


class DecodeError(Exception):
    """A picture that cannot be used; `kind` is a media failure kind."""

    def __init__(self, kind: MediaFailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: MediaFailureKind = kind


@dataclass(frozen=True)
class Picture:
    """A decoded picture: RGB pixels, and what is known about the original."""

    image: Image.Image
    format: str
    width: int
    height: int
    """Size of the original in pixels, upright."""
    lossless: bool
    exif: dict[str, Any]


def decode(data: bytes, *, max_megapixels: float, target_pixels: int) -> Picture:
    """Decode the bytes of a picture.

    Args:
        data: the original file.
        max_megapixels: more than this in the header is refused before decoding.
        target_pixels: what the caller will shrink to; a JPEG is decoded at a reduced scale that is no smaller.

    Raises:
        DecodeError: with kind not_an_image, unsupported, truncated, unreadable or too_large.
    """
    if not data:
        raise DecodeError("not_an_image", "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return _decode_opened(opened, max_megapixels, target_pixels)
    except UnidentifiedImageError:
        raise DecodeError("not_an_image", f"no known picture format; the file begins {data[:16]!r}") from None
    except Image.DecompressionBombError as error:
        raise DecodeError("too_large", str(error)) from None
    except DecodeError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        kind: MediaFailureKind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise DecodeError(kind, f"{type(error).__name__}: {error}") from None


def _decode_opened(opened: Image.Image, max_megapixels: float, target_pixels: int) -> Picture:
    width, height = opened.size
    if width * height > max_megapixels * 1e6:
        raise DecodeError("too_large", f"{width} x {height} is more than {max_megapixels:g} megapixels")
    format_name = opened.format or "unknown"
    exif = _exif(opened)
    if opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
        width, height = height, width
    if format_name == "JPEG" and width * height > target_pixels:
        scale = math.sqrt(target_pixels / (width * height))
        opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
    opened.load()
    image = ImageOps.exif_transpose(opened)
    return Picture(
        image=_to_srgb(image, opened.info.get("icc_profile")),
        format=format_name,
        width=width,
        height=height,
        lossless=format_name in {"PNG", "GIF", "BMP", "TIFF", "PPM"},
        exif=exif,
    )


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, eight bits, transparent parts on white; the profile is applied where it can be."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        image = _to_eight_bits(image)
    if image.mode in {"P", "PA", "LA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, mask=image.getchannel("A"))
        image = canvas
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile says nothing about the pixels
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep grey values to 0-255 by the format's range: 16 bits where they fit, else what is there."""
    values = np.asarray(image).astype(np.float64)
    low, high = (0.0, 65535.0) if values.size and values.min() >= 0 and values.max() > 255 else (0.0, 255.0)
    if values.size and (values.max() > 65535 or values.min() < 0):
        low, high = float(values.min()), float(values.max())
    scaled = np.clip((values - low) / max(high - low, 1e-9) * 255.0 + 0.5, 0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def _exif(image: Image.Image) -> dict[str, Any]:
    """The EXIF fields worth keeping, as text. Never a position."""
    try:
        raw = image.getexif()
        merged = {**raw, **raw.get_ifd(ExifTags.IFD.Exif)}
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return {}
    named = {ExifTags.TAGS.get(tag, ""): value for tag, value in merged.items()}
    kept = {name: str(named[name]).strip("\x00 ") for name in _EXIF_COLUMNS if name in named}
    return {name: value.encode("utf-8", "replace").decode() for name, value in kept.items() if value}


def exif_json(exif: dict[str, Any]) -> str:
    """EXIF fields as the media table stores them."""
    return json.dumps(exif, ensure_ascii=False, sort_keys=True)
