"""Whether a file is shorter than its container says: then it is truncated, whatever its decoder calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from caption_assets.media import jxl, jxl_frames
from caption_assets.sources.spool import Bytes

_MOST_BOXES = 100_000
_KINDS = frozenset(
    b"ftyp meta mdat mini moov moof sidx free skip wide uuid Exif jxlc jxlp jxll jxli jbrd brob jumb".split()
) | {b"JXL ", b"xml "}
"""Boxes that stand in no other."""
_TIFFS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}


def is_cut(data: Bytes) -> bool:
    """Whether something that the container of a WebP, AVIF, HEIC, JPEG XL or TIFF speaks of lies behind the file's end.

    A JPEG XL stream tells it itself. False also where nobody does: a last box "up to the end", of anything else.
    """
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if order := _TIFFS.get(data[:4]):
        return int.from_bytes(data[4:8], order) >= len(data)  # its directory, which many put behind the pixels
    if data[: len(jxl.STREAM)] == jxl.STREAM:
        return jxl_frames.is_cut(data[:])
    if data[4:8] != b"ftyp" and data[: len(jxl.BOX)] != jxl.BOX:
        return False
    for kind, start, end in _boxes(data, 0, len(data)):
        if len(kind) == 4 and kind not in _KINDS:
            return False  # what follows is no box
        if end > len(data):
            return True
        if kind == b"jxlc" and end == len(data):
            return jxl_frames.is_cut(data[start:end])
        if kind == b"meta" and _furthest_extent(data, start + 4, end) > len(data):
            return True
    return False


def _boxes(data: Bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, and where its content begins and ends (ISO/IEC 14496-12, 4.2)."""
    for _ in range(_MOST_BOXES):
        if start >= end:
            return
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if start + head > end:
            yield kind, start, start + head  # cut off in its head
            return
        if size == 0:
            size = end - start
        if size < head:
            return  # damaged, not cut
        yield kind, start + head, start + size
        start += size


def _furthest_extent(data: Bytes, start: int, end: int) -> int:
    """Where the last of the items' data ends, by the item location box (ISO/IEC 14496-12, 8.11.3); 0: it has none."""
    for kind, place, stop in _boxes(data, start, end):
        if kind == b"iloc" and stop <= end:
            return _Extents(data, place, stop).furthest()
    return 0


class _Extents:
    """One walk over an item location box."""

    def __init__(self, data: Bytes, start: int, end: int) -> None:
        self._data, self._place, self._end = data, start, end

    def furthest(self) -> int:
        """Where the last data ends that is placed by its offset in the file."""
        version = self._number(1)
        self._number(3)
        sizes = self._number(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        furthest = 0
        for _ in range(self._number(wide)):
            self._number(wide)  # the item's number
            in_file = not (self._number(2) & 15 if version else 0)
            self._number(2)  # which file
            base = self._number(base_size)
            for _ in range(self._number(2)):
                if version:
                    self._number(index_size)
                place, length = base + self._number(offset_size), self._number(length_size)
                if in_file:
                    furthest = max(furthest, place + length)
            if self._place >= self._end:
                break
        return furthest

    def _number(self, size: int) -> int:
        value = int.from_bytes(self._data[self._place : min(self._place + size, self._end)], "big")
        self._place += size
        return value
