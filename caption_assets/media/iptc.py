"""IPTC-IIM, the news agencies' older record, as texts by the names of its data sets (IIM 4.2, record 2)."""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

from caption_assets.media.text import clean

_TEXT = 2000
_VALUES = 200
_MARKER = 0x1C
_LONG = 0x8000  # such a length is that of a length
_APPLICATION = 2
_CHARACTER_SET = (1, 90)
_UTF8 = b"\x1b%G"
_RESOURCE = 0x0404  # Photoshop's number for IPTC
_TIFF_TAG = 33723
_NAMES = {
    4: "ObjectAttribute",
    5: "ObjectName",
    7: "EditStatus",
    10: "Urgency",
    15: "Category",
    20: "SupplementalCategories",
    22: "FixtureIdentifier",
    25: "Keywords",
    40: "SpecialInstructions",
    55: "DateCreated",
    60: "TimeCreated",
    62: "DigitalCreationDate",
    63: "DigitalCreationTime",
    65: "OriginatingProgram",
    80: "By-line",
    85: "By-lineTitle",
    90: "City",
    92: "Sub-location",
    95: "Province-State",
    100: "CountryCode",
    101: "Country",
    103: "OriginalTransmissionReference",
    105: "Headline",
    110: "Credit",
    115: "Source",
    116: "CopyrightNotice",
    118: "Contact",
    120: "Caption-Abstract",
    122: "Writer-Editor",
}
_LISTS = frozenset({"SupplementalCategories", "Keywords", "By-line", "By-lineTitle", "Contact", "Writer-Editor"})


def iptc_block(image: Image.Image) -> bytes | None:
    """Where an opened JPEG or TIFF keeps its IPTC: Photoshop's resource, or a tag of its own."""
    block: Any = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        block = image.tag_v2.get(_TIFF_TAG)
        if isinstance(block, tuple) and block and isinstance(block[0], bytes):
            block = block[0]
        if not isinstance(block, bytes):
            block = image.get_photoshop_blocks().get(_RESOURCE, {}).get("data")
    elif isinstance(resources := image.info.get("photoshop"), dict):
        block = resources.get(_RESOURCE)
    return block if isinstance(block, bytes) else None


def read_iptc(block: bytes) -> dict[str, Any]:
    """The fields of a block by name: texts, and lists of them where a field may be there more than once."""
    fields: dict[str, Any] = {}
    encoding = ""
    position = 0
    while position + 5 <= len(block) and block[position] == _MARKER:
        record, number = block[position + 1], block[position + 2]
        length = int.from_bytes(block[position + 3 : position + 5], "big")
        position += 5
        if length & _LONG:
            size = length & ~_LONG
            length = int.from_bytes(block[position : position + size], "big") if size <= 4 else len(block)
            position += size
        value = block[position : position + length]
        position += length
        if (record, number) == _CHARACTER_SET and value.startswith(_UTF8):
            encoding = "utf-8"
        if record == _APPLICATION and number in _NAMES:
            _add(fields, _NAMES[number], clean(value.decode(encoding, "ignore") if encoding else value, _TEXT))
    return fields


def _add(fields: dict[str, Any], name: str, text: str) -> None:
    if not text:
        return
    if name not in _LISTS:
        fields.setdefault(name, text)
    elif len(values := fields.setdefault(name, [])) < _VALUES and text not in values:
        values.append(text)
