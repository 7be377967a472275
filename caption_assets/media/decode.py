"""Decode a picture with limits: upright, sRGB, eight bits, opaque, first frame. Every defect is a `DecodeError`."""

from __future__ import annotations

import io
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from caption_assets.lake.tables import MediaFailureKind
from caption_assets.media import jpeg
from caption_assets.media.color import is_srgb, to_srgb
from caption_assets.media.memory import MemoryGate
from caption_assets.media.pixels import Pixels, fit, jpeg_pixels, jpeg_scale, rgb_pixels, same_jpeg

Image.core.set_block_size(1 << 26)  # type: ignore[attr-defined]  # malloc keeps smaller ones for the freeing thread
Image.MAX_IMAGE_PIXELS = None  # decode() has its own limit, checked before pixels are allocated
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # broken metadata is not worth a line each

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded. Not all that Pillow can: its EPS support, for one, runs another program on the file, and an ICO's
header may promise less than the picture in it needs."""

_JPEGS = frozenset({"JPEG", "MPO"})
_LOSSLESS = frozenset({"PNG", "GIF", "BMP", "TIFF"})
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
"""What a decoded image takes of memory, by mode; all other modes: four."""
_TRANSCODED = {"WEBP": 8, "AVIF": 12}
"""Formats whose decoders hold the picture besides: bytes a pixel, all in all."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_EXIF_COLUMNS = ("DateTime", "DateTimeOriginal", "Make", "Model", "LensModel", "Software", "ImageDescription", "Artist")
_EXIF_LENGTH = 500
_MESSAGE_LENGTH = 300
_UNSUPPORTED = (
    (re.compile(rb"....ftyp(?:hei[cfms]|hev[cx]|mif1|msf1)", re.DOTALL), "HEIC/HEIF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?)?(?:<!--.*?-->|<!DOCTYPE svg.*?>|\s)*<svg\b", re.DOTALL), "SVG"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"8BPS"), "Photoshop"),
)


class DecodeError(Exception):
    """A picture that cannot be used; `kind` is a media failure kind."""

    def __init__(self, kind: MediaFailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: MediaFailureKind = kind


@dataclass(frozen=True)
class Picture:
    """A decoded picture: its pixels, and what is known about the original."""

    pixels: Pixels
    """Upright and within the budget."""
    format: str
    width: int
    height: int
    """Size of the original in pixels, upright."""
    lossless: bool
    exif: dict[str, Any]
    jpeg: bytes | None = None
    """The original without metadata, where that is a JPEG of exactly these pixels."""

    @property
    def image(self) -> Image.Image:
        """The pixels as an image."""
        return Image.fromarray(self.pixels)


def decode(data: bytes, *, max_megapixels: float, target_pixels: int, memory: MemoryGate | None = None) -> Picture:
    """Decode the bytes of a picture, and shrink it (never enlarge) to a pixel budget.

    Args:
        data: the original file.
        max_megapixels: more than this in the header is refused before decoding.
        target_pixels: the budget.
        memory: where to wait for the memory that decoding takes.

    Raises:
        DecodeError: with kind not_an_image, unsupported, truncated, unreadable or too_large.
    """
    if not data:
        raise DecodeError("not_an_image", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            return _decode_opened(opened, data, max_megapixels, target_pixels, memory or MemoryGate())
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's readers raise whatever a mutated file makes them stumble over
        raise _unreadable(error) from None


def exif_json(exif: dict[str, Any]) -> str:
    """EXIF fields as the media table stores them."""
    return json.dumps(exif, ensure_ascii=False, sort_keys=True)


def _decode_opened(
    opened: Image.Image, data: bytes, max_megapixels: float, target_pixels: int, memory: MemoryGate
) -> Picture:
    header = opened.size
    for width, height in (header, _tile_size(opened)):
        if width * height > max_megapixels * 1e6:
            raise DecodeError("too_large", f"{width} x {height} is more than {max_megapixels:g} megapixels")
    format_name = opened.format or "unknown"
    profile = opened.info.get("icc_profile")
    with memory.hold(_working_bytes(opened, format_name, target_pixels)):
        pixels = _pixels(opened, data, format_name, target_pixels, profile)
        # after decoding: the TIFF reader turns its pictures itself, the PNG reader decodes them to read on behind them
        orientation, exif = _orientation(opened), _exif(opened)
        opened.close()  # its memory, which the next one is waiting for
    keep = format_name in _JPEGS and pixels.shape[1::-1] == header and orientation == 1
    width, height = header if format_name in _JPEGS else opened.size
    return Picture(
        pixels=_upright(pixels, orientation),
        format=format_name,
        width=height if orientation >= 5 else width,
        height=width if orientation >= 5 else height,
        lossless=format_name in _LOSSLESS,
        exif=exif,
        jpeg=_kept_jpeg(data) if keep and (not profile or is_srgb(profile)) else None,
    )


def _pixels(opened: Image.Image, data: bytes, format_name: str, target_pixels: int, profile: bytes | None) -> Pixels:
    """The pixels within the budget, as they are stored: not turned yet."""
    size = fit(*opened.size, target_pixels)
    if format_name in _JPEGS and opened.mode in {"L", "RGB"}:
        pixels = jpeg_pixels(data, opened.size, size)
        if pixels is not None:
            return pixels if not profile or is_srgb(profile) else np.asarray(to_srgb(Image.fromarray(pixels), profile))
    if format_name in _JPEGS:
        opened.draft(None, size)
    opened.load()
    return rgb_pixels(opened, profile, fit(*opened.size, target_pixels))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """The pixels turned as EXIF's orientation says (TIFF 6.0, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _working_bytes(opened: Image.Image, format_name: str, target_pixels: int) -> int:
    """About what decoding takes of memory at its worst moment."""
    width, height = opened.size
    if format_name not in _JPEGS:
        return width * height * _TRANSCODED.get(format_name, _BYTES_PER_PIXEL.get(opened.mode, 4))
    scale = jpeg_scale(opened.size, fit(width, height, target_pixels)) / 8
    pixels = int(width * height * scale * scale) * 4
    if opened.info.get("progressive") or opened.info.get("progression"):
        pixels += width * height * 2 * len(opened.getbands())  # every coefficient, in two bytes
    return pixels


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Size of a TIFF's tiles: a tile is decoded whole, however small the picture that is cut from it."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))


def _kept_jpeg(data: bytes) -> bytes | None:
    """The JPEG without its metadata, if it still decodes to the same pixels."""
    stripped = jpeg.strip(data)
    return stripped if stripped is not None and same_jpeg(stripped, data) else None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is absent or makes no sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _exif(image: Image.Image) -> dict[str, str]:
    """The EXIF fields worth keeping, as bounded text. Never a position."""
    try:
        raw = image.getexif()
        merged = {**raw, **raw.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # broken EXIF says nothing about the pixels
        return {}
    named = {ExifTags.TAGS.get(tag, ""): value for tag, value in merged.items()}
    kept = {name: _text(named[name]) for name in _EXIF_COLUMNS if name in named}
    return {name: value for name, value in kept.items() if value}


def _text(value: object) -> str:
    """An EXIF value as text: up to the first NUL, without control characters or halves of characters."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, bytes):
        text = value[: 8 * _EXIF_LENGTH].decode("utf-8", "replace")
    elif isinstance(value, str):
        text = _utf8(value[: 8 * _EXIF_LENGTH])
    else:
        text = repr(value) if isinstance(value, int | float) else ""
    text = text.strip("\0 ").split("\0", 1)[0].encode("utf-8", "replace").decode()
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.strip()[:_EXIF_LENGTH].rstrip()


def _utf8(text: str) -> str:
    """What Pillow read as Latin-1 is UTF-8 in nearly all files with other than ASCII characters."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _unidentified(data: bytes) -> DecodeError:
    head = data[:4096]
    for pattern, name in _UNSUPPORTED:
        if pattern.match(head):
            return DecodeError("unsupported", f"{name} is not decoded; convert the file to JPEG or PNG")
    return DecodeError("not_an_image", f"no known picture format; the file begins {data[:16]!r}")


def _unreadable(error: Exception) -> DecodeError:
    """A reader's exception as one of ours; its text may hold addresses and file names, which are nobody's business."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", text)
    text = re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.@%+~-]+){2,}[/\\]?", "a file", text)
    kind: MediaFailureKind = "unreadable"
    if re.search("truncated|premature", text.lower()):
        kind = "truncated"
    elif isinstance(error, MemoryError) or "too large" in text:
        kind = "too_large"
    return DecodeError(kind, f"{type(error).__name__}: {text}"[:_MESSAGE_LENGTH].rstrip(": "))
