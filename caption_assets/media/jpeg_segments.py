"""The segments of a JPEG (ITU-T T.81, annex B), from its beginning to the end of its picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SOI, EOI, SOS, COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
HUFFMAN, QUANTIZATION, RESTART = 0xC4, 0xDB, 0xDD
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
FRAMES = frozenset({BASELINE, EXTENDED, PROGRESSIVE})
"""Frames of one Huffman-coded picture."""
TABLES = frozenset({HUFFMAN, QUANTIZATION, RESTART})
_END = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""What ends a scan's data: a marker, or what may stand before one, that is no restart."""


class CutError(OSError):
    """The file is truncated."""


@dataclass(frozen=True)
class Segment:
    """A marker and what belongs to it."""

    data: bytes
    marker: int
    payload: bytes = b""
    """What follows the marker and the length."""
    end: int = 0
    """The place behind the payload."""

    @cached_property
    def coded(self) -> slice:
        """Where a scan's entropy-coded data stands. Raises CutError."""
        found = _END.search(self.data, self.end)
        if found is None:
            raise CutError("the file is truncated: it ends amid a scan")
        return slice(self.end, found.start())

    def __bytes__(self) -> bytes:
        """Itself, without a scan's data."""
        return segment(self.marker, self.payload)


def segments(data: bytes) -> Iterator[Segment]:
    """All of them but SOI, up to EOI, which is the last.

    Raises:
        ValueError: something stands where a marker should, or a second picture begins.
        CutError: the file ends before EOI.
    """
    marker, position = _marker(data, 0)
    if marker != SOI:
        raise ValueError("not a JPEG")
    while True:
        marker, position = _marker(data, position)
        if marker == EOI:
            yield Segment(data, marker, end=position)
            return
        if marker in {SOI, 0x00, 0x01, *range(0xD0, 0xD8)}:
            raise ValueError(f"a marker out of its place: {marker:#x}")
        length = int.from_bytes(data[position : position + 2], "big")
        if position + length > len(data):
            raise CutError("the file is truncated: it ends amid a segment")
        if length < 2:
            raise ValueError(f"a segment that is shorter than its length: {marker:#x}")
        each = Segment(data, marker, data[position + 2 : position + length], position + length)
        yield each
        position = each.coded.stop if marker == SOS else each.end


def segment(marker: int, payload: bytes) -> bytes:
    """A marker, a length and a payload."""
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _marker(data: bytes, position: int) -> tuple[int, int]:
    """The marker at a place, and the place behind it; any number of 0xFF may precede it."""
    start = position
    while data[position : position + 1] == b"\xff":
        position += 1
    if position >= len(data):
        raise CutError("the file is truncated: it ends before its picture does")
    if position == start:
        raise ValueError("something stands where a marker should")
    return data[position], position + 1
