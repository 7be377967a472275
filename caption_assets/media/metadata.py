"""What a picture's file says about it: EXIF, XMP and IPTC as typed values, and as they stand there as JSON.

Which fields say the same is as in the Metadata Working Group's guidance (2.0), as far as that goes; titles and Windows'
XP fields besides. Texts are read from XMP, then IPTC, then EXIF, the richest form first. What a camera measures (date,
make, model, position) is read from EXIF first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import Image

from caption_assets.media.exif import position, read_exif
from caption_assets.media.iptc import iptc_block, read_iptc
from caption_assets.media.text import bounded_json, clean
from caption_assets.media.xmp import read_xmp

_LINE, _TEXT, _KEYWORD = 500, 2000, 200
_KEYWORDS = 200
_JSON = 32_768
_SPLIT = re.compile(r"\s*;\s*")
_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)(?:[ T]+(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?)?")
_DEGREES = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])")

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Metadata:
    """The metadata of an original; None where it does not say."""

    taken_at: datetime | None = None
    """Local time where it was taken, as the camera had it: without a zone."""
    camera_make: str | None = None
    camera_model: str | None = None
    latitude: float | None = None
    """Decimal degrees, WGS84; south and west are negative."""
    longitude: float | None = None
    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()
    creator: str | None = None
    exif: str | None = None
    """A JSON object of at most 32,768 characters; what does not fit is left out. So are the next two."""
    xmp: str | None = None
    iptc: str | None = None

    def columns(self) -> dict[str, Any]:
        """The columns of the media table."""
        return {**vars(self), "keywords": list(self.keywords) or None}


def read_metadata(image: Image.Image, *, gps: bool) -> Metadata:
    """Read an image's metadata. Never raises: what is broken is left out, and says nothing about the pixels.

    Args:
        image: opened by Pillow; a PNG's metadata may follow its pixels, so that one is loaded.
        gps: whether positions are read. Without it neither the values nor the JSON texts hold one.
    """
    exif = _attempt(lambda: read_exif(image, gps=gps))
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    packet = packet.encode() if isinstance(packet, str) else packet
    xmp = _attempt(lambda: read_xmp(packet, gps=gps)) if isinstance(packet, bytes) else {}
    block = _attempt(lambda: {"block": iptc_block(image)}).get("block")
    iptc = _attempt(lambda: read_iptc(block)) if block else {}
    if not (exif or xmp or iptc):
        return Metadata()
    latitude, longitude = _position(exif, xmp) if gps else (None, None)
    return Metadata(
        taken_at=_taken_at(exif, xmp, iptc),
        camera_make=_first(_LINE, exif.get("Make"), xmp.get("tiff:Make")),
        camera_model=_first(_LINE, exif.get("Model"), xmp.get("tiff:Model")),
        latitude=latitude,
        longitude=longitude,
        title=_first(_LINE, xmp.get("dc:title"), iptc.get("ObjectName"), exif.get("XPTitle")),
        description=_first(
            _TEXT, xmp.get("dc:description"), iptc.get("Caption-Abstract"), exif.get("ImageDescription")
        ),
        keywords=_keywords(exif, xmp, iptc),
        creator=_first(_LINE, xmp.get("dc:creator"), iptc.get("By-line"), exif.get("Artist"), exif.get("XPAuthor")),
        exif=bounded_json(exif, _JSON),
        xmp=bounded_json(xmp, _JSON),
        iptc=bounded_json(iptc, _JSON),
    )


def _attempt(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except Exception:  # the readers stumble over whatever a broken file holds
        return {}


def _first(limit: int, *values: object) -> str | None:
    """The first that says something; of languages the default, of several names all."""
    for value in values:
        if text := clean(_one(value), limit):
            return text
    return None


def _one(value: object) -> object:
    if isinstance(value, dict):
        return value.get("x-default") or next(iter(value.values()), "")
    if isinstance(value, list):
        return "; ".join(each for each in value if isinstance(each, str))
    return value if isinstance(value, str) else ""


def _keywords(exif: Fields, xmp: Fields, iptc: Fields) -> tuple[str, ...]:
    """All of the first source that has any, each once, in its order."""
    subject, words = xmp.get("dc:subject"), exif.get("XPKeywords")
    for source in (subject, iptc.get("Keywords"), _SPLIT.split(words) if isinstance(words, str) else None):
        found = source if isinstance(source, list) else [source]
        cleaned = [clean(each, _KEYWORD) for each in found if isinstance(each, str)]
        if kept := tuple(dict.fromkeys(each for each in cleaned if each)):
            return kept[:_KEYWORDS]
    return ()


def _taken_at(exif: Fields, xmp: Fields, iptc: Fields) -> datetime | None:
    """When it was taken; never when it was scanned, edited or saved, which other fields tell."""
    original, fraction = exif.get("DateTimeOriginal"), exif.get("SubsecTimeOriginal")
    candidates = [
        f"{original}.{fraction}" if isinstance(fraction, str) and fraction.isdecimal() else original,
        xmp.get("photoshop:DateCreated"),
        xmp.get("exif:DateTimeOriginal"),
        _iptc_date(iptc.get("DateCreated"), iptc.get("TimeCreated")),
    ]
    return next(filter(None, map(_datetime, candidates)), None)


def _iptc_date(date: object, time: object) -> str | None:
    """CCYYMMDD and HHMMSS±HHMM as one text."""
    if not isinstance(date, str) or not re.fullmatch(r"\d{8}", date):
        return None
    clock = re.match(r"(\d\d)(\d\d)(\d\d)", time) if isinstance(time, str) else None
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" + (" {}:{}:{}".format(*clock.groups()) if clock else "")


def _datetime(text: object) -> datetime | None:
    """A date with or without its time, by EXIF's or XMP's rules; a zone is dropped, half a date is none."""
    match = _DATE.match(text) if isinstance(text, str) else None
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        return datetime(year, month, day, hour, minute, second, int((match[7] or "0").ljust(6, "0")))
    except ValueError:  # zeros where the clock was never set, a thirteenth month
        return None


def _position(exif: Fields, xmp: Fields) -> tuple[float, float] | tuple[None, None]:
    if found := position(exif.get("GPSInfo") or {}):
        return found
    latitude = _coordinate(xmp.get("exif:GPSLatitude"), "NS", 90)
    longitude = _coordinate(xmp.get("exif:GPSLongitude"), "EW", 180)
    return (None, None) if latitude is None or longitude is None else (latitude, longitude)


def _coordinate(text: object, directions: str, limit: float) -> float | None:
    """XMP's `DDD,MM.mmmmK` or `DDD,MM,SSK` in decimal degrees."""
    match = _DEGREES.fullmatch(text) if isinstance(text, str) else None
    if not match or match[4] not in directions:
        return None
    degrees = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
    if not math.isfinite(degrees) or degrees > limit:
        return None
    return round(-degrees if match[4] == directions[1] else degrees, 8)
