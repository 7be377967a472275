"""EXIF as plain values by the names of its tags (CIPA DC-008), bounded; a position only where it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

from caption_assets.media.text import clean, mended

_TEXT = 2000
_BYTES = 32
"""Longer binary values are no text: maker notes (which may hold a position), thumbnails, tables."""
_NUMBERS = 16
_UTF16 = frozenset({0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F})  # XPTitle, XPComment, XPAuthor, XPKeywords, XPSubject
_USER_COMMENT = 0x9286
_COMMENT_CODES = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16", bytes(8): "utf-8"}
_STORAGE = frozenset(
    {
        *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 288, 289, 317, 320, 322, 323, 324, 325),
        *(330, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532),  # how a TIFF stores its pixels
        *(700, 33723, 34377, 34675),  # XMP, IPTC, Photoshop's, a profile
        *(34665, 34853, 37500, 40965, 50341),  # other directories, the maker's notes, a printer's
    }
)


def read_exif(image: Image.Image, *, gps: bool) -> dict[str, Any]:
    """The EXIF fields of an image by name: texts, finite numbers, lists of them; with `gps`, `GPSInfo` is an object.

    Args:
        image: opened by Pillow.
        gps: whether the position is read; without it nothing of its directory is.
    """
    raw = image.getexif()
    fields = _named({**raw, **raw.get_ifd(ExifTags.IFD.Exif)}, ExifTags.TAGS)
    if gps and (position := _named(raw.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS)):
        fields["GPSInfo"] = position
    return fields


def position(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    """Latitude and longitude in decimal degrees (WGS84) from a `GPSInfo`; None where it has none that holds.

    Without its N, S, E or W a number says nothing; status V means that the receiver had no fix, and Tokyo's datum lies
    hundreds of metres from WGS84.
    """
    if fields.get("GPSStatus") == "V" or "TOKYO" in str(fields.get("GPSMapDatum", "")).upper():
        return None
    latitude = _degrees(fields.get("GPSLatitude"), fields.get("GPSLatitudeRef"), "NS", 90)
    longitude = _degrees(fields.get("GPSLongitude"), fields.get("GPSLongitudeRef"), "EW", 180)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _degrees(value: Any, reference: Any, directions: str, limit: float) -> float | None:
    parts = value if isinstance(value, list) else [value]
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, int | float) and part >= 0 for part in parts):
        return None
    degrees = 0.0
    for place, part in enumerate(parts):
        degrees += float(part) / 60.0**place
    direction = str(reference or "").upper()[:1]
    if degrees > limit or not direction or direction not in directions:
        return None
    return round(-degrees if direction == directions[1] else degrees, 8)


def _named(raw: Mapping[int, Any], names: Mapping[int, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for tag, value in raw.items():
        if tag in names and not (names is ExifTags.TAGS and tag in _STORAGE):
            plain = _plain(tag, value)
            if plain not in (None, "", []):
                fields[names[tag]] = plain
    return fields


def _plain(tag: int, value: Any) -> Any:
    """A value as JSON can hold it; None where it says nothing."""
    if isinstance(value, bytes):
        return _of_bytes(tag, value)
    if isinstance(value, str):
        return clean(mended(value), _TEXT)
    if isinstance(value, tuple | list):
        if tag in _UTF16 and all(isinstance(each, int) and 0 <= each < 256 for each in value):
            return _of_bytes(tag, bytes(value))
        plain = [_plain(tag, each) for each in value[: _NUMBERS + 1]]
        whole = len(value) <= _NUMBERS and None not in plain
        return (plain if len(plain) > 1 else plain[0]) if plain and whole else None
    return _number(value)


def _of_bytes(tag: int, value: bytes) -> str | None:
    if tag in _UTF16:
        return clean(value[: 4 * _TEXT].decode("utf-16-le", "ignore"), _TEXT)
    if tag == _USER_COMMENT:
        encoding = _COMMENT_CODES.get(value[:8])
        return clean(value[8 : 4 * _TEXT].decode(encoding, "ignore"), _TEXT) if encoding else None
    text = value.rstrip(b"\0 ")
    return text.decode() if len(text) <= _BYTES and text.isascii() and text.decode().isprintable() else None


def _number(value: Any) -> int | float | None:
    """An integer, or a rational as a float of so many digits as it can mean."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return float(f"{number:.10g}") if math.isfinite(number) else None
