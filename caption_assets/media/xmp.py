"""XMP packets (ISO 16684-1) as plain values by the names of their properties, bounded; no entity is expanded."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from caption_assets.media.text import clean

_PACKET = 1 << 20
"""Bigger packets are not read: they hold edit histories and thumbnails. In a JPEG a packet has 64 KiB at most."""
_TEXT = 2000
_VALUES = 200
_DEPTH = 6
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
    "http://ns.adobe.com/xap/1.0/sType/ResourceRef#": "stRef",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://cipa.jp/exif/1.0/": "exifEX",
    "http://ns.adobe.com/exif/1.0/aux/": "aux",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://ns.useplus.org/ldf/xmp/1.0/": "plus",
    "http://creativecommons.org/ns#": "cc",
    "http://ns.microsoft.com/photo/1.0/": "MicrosoftPhoto",
    "http://www.digikam.org/ns/1.0/": "digiKam",
    "http://ns.google.com/photos/1.0/panorama/": "GPano",
}
_BULK = frozenset({"http://ns.adobe.com/camera-raw-settings/1.0/", "http://ns.adobe.com/xap/1.0/g/img/"})
_POSITIONS = re.compile(r"gps|geo|latitud|longi?t|latlon|latlng|altitud|coordinate|position", re.IGNORECASE)
_POSITION_SPACES = re.compile(r"geo|gps|location|wgs84", re.IGNORECASE)
_IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


def read_xmp(packet: bytes, *, gps: bool) -> dict[str, Any]:
    """The properties of a packet by `prefix:name`: texts, lists, objects; alternatives of language are an object.

    A name space that is not known here stands with its URI.

    Args:
        packet: XML with one `rdf:RDF`.
        gps: whether properties that may hold a position are read, of whatever name space and at whatever depth.

    Raises:
        Exception: the packet is no XML, or declares document types or entities.
    """
    packet = packet.strip(b"\0 \r\n\t")
    if len(packet) > _PACKET:
        return {}
    root = ElementTree.fromstring(packet, forbid_dtd=True)
    rdf = root if root.tag == f"{_RDF}RDF" else root.find(f".//{_RDF}RDF")
    reader = _Reader(gps)
    fields: dict[str, Any] = {}
    for description in [] if rdf is None else rdf.findall(f"{_RDF}Description")[:_VALUES]:
        for name, value in reader.properties(description, 0).items():
            fields.setdefault(name, value)
    return fields


class _Reader:
    """One packet's walk."""

    def __init__(self, gps: bool) -> None:
        self.gps = gps

    def properties(self, element: Element, depth: int) -> dict[str, Any]:
        """What an element says of its subject: by attributes, and by elements within."""
        found: dict[str, Any] = {}
        for key, text in element.attrib.items():
            self._put(found, key, clean(text, _TEXT))
        for child in element:
            if len(found) >= _VALUES:
                break
            if name := self._name(child.tag):
                self._put(found, child.tag, self._value(child, depth + 1), name)
        return found

    def _put(self, found: dict[str, Any], key: str, value: Any, name: str | None = None) -> None:
        name = name or self._name(key)
        if name and value not in ("", None, [], {}):
            found.setdefault(name, value)

    def _value(self, element: Element, depth: int) -> Any:
        if depth > _DEPTH:
            return None
        if not len(element):
            resource = element.get(f"{_RDF}resource")
            return self.properties(element, depth) or clean(resource or element.text or "", _TEXT)
        inner = element[0]
        if inner.tag == f"{_RDF}Alt" and any(item.get(_LANGUAGE) for item in inner):
            texts = {clean(item.get(_LANGUAGE) or "x-default", 40): clean(item.text or "", _TEXT) for item in inner}
            return {language: text for language, text in texts.items() if text}
        if inner.tag in {f"{_RDF}Bag", f"{_RDF}Seq", f"{_RDF}Alt"}:
            values = [self._value(item, depth + 1) for item in inner[:_VALUES]]
            return [value for value in values if value not in ("", None, [], {})]
        if inner.tag == f"{_RDF}Description":
            return self.properties(inner, depth)
        return self.properties(element, depth)

    def _name(self, key: str) -> str | None:
        """`prefix:name` of a property; None for RDF's own, for bulk, and for what may hold a position."""
        space, _, local = key[1:].partition("}") if key.startswith("{") else ("", "", key)
        if not space or space in _BULK or f"{{{space}}}" == _RDF or key == _LANGUAGE or len(key) > 200:
            return None
        if not self.gps and _may_be_a_position(space, local):
            return None
        return f"{_PREFIXES[space]}:{local}" if space in _PREFIXES else clean(space + local, 200)


def _may_be_a_position(space: str, local: str) -> bool:
    if space == _IPTC_EXTENSION and local.startswith("Location"):
        return True
    return bool(_POSITIONS.search(local) or (space not in _PREFIXES and _POSITION_SPACES.search(space)))
