"""Decode a picture with limits: upright, sRGB, eight bits, opaque, first frame. Every defect is a `DecodeError`."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from caption_assets.lake.tables import MediaFailureKind
from caption_assets.media import jpeg
from caption_assets.media.color import is_srgb, to_srgb

Image.MAX_IMAGE_PIXELS = None  # decode() has its own limit, checked before pixels are allocated
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # broken metadata is not worth a line each

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded. Not all that Pillow can: its EPS support, for one, runs another program on the file, and an ICO's
header may promise less than the picture in it needs."""

_JPEGS = frozenset({"JPEG", "MPO"})
_LOSSLESS = frozenset({"PNG", "GIF", "BMP", "TIFF"})
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
    """A decoded picture: RGB pixels, and what is known about the original."""

    image: Image.Image
    format: str
    width: int
    height: int
    """Size of the original in pixels, upright."""
    lossless: bool
    exif: dict[str, Any]
    jpeg: bytes | None = None
    """The original without metadata, where that is a JPEG of exactly these pixels."""


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
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            return _decode_opened(opened, data, max_megapixels, target_pixels)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's readers raise whatever a mutated file makes them stumble over
        raise _unreadable(error) from None


def exif_json(exif: dict[str, Any]) -> str:
    """EXIF fields as the media table stores them."""
    return json.dumps(exif, ensure_ascii=False, sort_keys=True)


def _decode_opened(opened: Image.Image, data: bytes, max_megapixels: float, target_pixels: int) -> Picture:
    header = opened.size
    for width, height in (header, _tile_size(opened)):
        if width * height > max_megapixels * 1e6:
            raise DecodeError("too_large", f"{width} x {height} is more than {max_megapixels:g} megapixels")
    format_name = opened.format or "unknown"
    exif = _exif(opened)
    reduced = format_name in _JPEGS and opened.width * opened.height > target_pixels
    if reduced:
        scale = math.sqrt(target_pixels / (opened.width * opened.height))
        opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
    opened.load()
    orientation = _orientation(opened)  # after load: the TIFF reader turns its pictures itself
    profile = opened.info.get("icc_profile")
    image = to_srgb(opened, profile)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    width, height = image.size
    if reduced:
        width, height = header if orientation < 5 else header[::-1]
    image.info = {}  # or encoders would store the original's comments and profile again
    keep = format_name in _JPEGS and not reduced and orientation == 1 and (not profile or is_srgb(profile))
    return Picture(
        image=image,
        format=format_name,
        width=width,
        height=height,
        lossless=format_name in _LOSSLESS,
        exif=exif,
        jpeg=_kept_jpeg(data, image) if keep else None,
    )


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Size of a TIFF's tiles: a tile is decoded whole, however small the picture that is cut from it."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))


def _kept_jpeg(data: bytes, image: Image.Image) -> bytes | None:
    """The JPEG without its metadata, if it still decodes to these pixels."""
    stripped = jpeg.strip(data)
    if stripped is None:
        return None
    try:
        with Image.open(io.BytesIO(stripped), formats=("JPEG",)) as again:
            same = again.mode in {"RGB", "L"} and again.convert("RGB").tobytes() == image.tobytes()
    except Exception:  # it is of no use, for whatever reason
        return None
    return stripped if same else None


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
