"""Boxes of the ISO base media file format, in which AVIF, HEIC and JPEG XL files are packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from caption_assets.sources.spool import Bytes

_MOST_BOXES = 100_000


def boxes(data: Bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
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


class Numbers:
    """Big-endian numbers, one behind the other; 0 where there are no more."""

    def __init__(self, data: Bytes, start: int, end: int) -> None:
        self._data, self.place, self._end = data, start, end

    @property
    def is_at_end(self) -> bool:
        """Whether there are no more."""
        return self.place >= self._end

    def next(self, size: int) -> int:
        """One of so many bytes."""
        value = int.from_bytes(self._data[self.place : min(self.place + size, self._end)], "big")
        self.place += size
        return value


@dataclass(frozen=True)
class Extent:
    """A part of an item's data."""

    item: int
    construction: int
    """What its place is counted from: 0 the file's beginning, 1 the item data box's."""
    place: int
    length: int


def extents(data: Bytes, start: int, end: int) -> Iterator[Extent]:
    """What an item location box says (ISO/IEC 14496-12, 8.11.3), from its version on."""
    numbers = Numbers(data, start, end)
    version = numbers.next(1)
    numbers.next(3)
    sizes = numbers.next(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(numbers.next(wide)):
        item = numbers.next(wide)
        construction = numbers.next(2) & 15 if version else 0
        numbers.next(2)  # which file
        base = numbers.next(base_size)
        for _ in range(numbers.next(2)):
            if version:
                numbers.next(index_size)
            yield Extent(item, construction, base + numbers.next(offset_size), numbers.next(length_size))
        if numbers.is_at_end:
            return
