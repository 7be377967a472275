"""DC coefficients of a JPEG's scan of several components, a component at a time (ITU-T T.81, annexes F.1.2.1 and G).

A scan that interleaves components is a sequence of codes, each of which tells where the next begins. Where each would
end that began at any bit is looked up for all bits at once; only then is the sequence followed, a unit at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.int32]
Scalar = TypeVar("Scalar", bound=np.generic)

_CHUNK = 1 << 16
_MARGIN = 64
"""Bytes that a unit of at most ten blocks, each of 31 bits, may reach beyond the chunk it begins in."""
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MOST_RESTARTS = 100_000
_CATEGORIES = 15
_CODE_BITS = 4
EQUAL_CODES = bytes([0, 0, 0, 0, _CATEGORIES, *[0] * 12, *range(_CATEGORIES)])
"""A Huffman table for DC, class and number 0: every category has a code of four bits, itself."""


@dataclass(frozen=True)
class Codes:
    """A Huffman table, by the sixteen bits at a place."""

    lengths: NDArray[np.uint8]
    """Of the code that they begin with; 0: none does."""
    categories: NDArray[np.uint8]
    """What the code means: how many bits of the value follow."""


@dataclass(frozen=True)
class Grid:
    """How a component's blocks stand in an interleaved scan."""

    across: int
    down: int
    """How many there are in a unit (MCU), side by side and below each other."""
    columns: int
    rows: int
    """How many the component has; those beyond fill units."""

    @property
    def size(self) -> int:
        """Blocks in a unit."""
        return self.across * self.down

    def raster(self, values: NDArray[Scalar], units_across: int) -> NDArray[Scalar]:
        """The component's own, row by row, of (units, blocks in a unit)."""
        placed = values.reshape(-1, units_across, self.down, self.across).swapaxes(1, 2)
        return placed.reshape(-1, units_across * self.across)[: self.rows, : self.columns].ravel()


def tables(payload: bytes) -> Iterator[tuple[int, Codes | None]]:
    """The tables of a DHT segment: class and number, and codes where it is one for DC. Raises ValueError."""
    while payload:
        counts = payload[1:17]
        symbols = payload[17 : 17 + sum(counts)]
        if len(counts) < 16 or len(symbols) < sum(counts):
            raise ValueError("a Huffman table that is shorter than its counts")
        yield payload[0], _codes(counts, symbols) if payload[0] < 16 else None
        payload = payload[17 + len(symbols) :]


def _codes(counts: bytes, symbols: bytes) -> Codes:
    lengths, categories = np.zeros(1 << 16, np.uint8), np.zeros(1 << 16, np.uint8)
    place = number = 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[number : number + count]:
            following = place + (1 << 16 - length)
            if following > 1 << 16 or symbol > 15:
                raise ValueError("a Huffman table that makes no sense")
            lengths[place:following], categories[place:following] = length, symbol
            place = following
        number += count
    return Codes(lengths, categories)


def first_values(coded: bytes, codes: Sequence[Codes], grids: Sequence[Grid], units: int, restart: int) -> list[Values]:
    """DC coefficients, as far as a first scan gives their bits.

    Args:
        coded: the scan's data.
        codes: of each component.
        grids: the same.
        units: how many there are in all.
        restart: units in an interval; 0: all.

    Returns:
        Of each component (units, blocks in a unit).

    Raises:
        OSError: the data is damaged.
    """
    blocks = [each for each, grid in zip(codes, grids, strict=True) for _ in range(grid.size)]
    found = []
    for count, part in _intervals(coded, units, restart):
        differences = _differences(part, blocks, count)
        start, columns = 0, []
        for grid in grids:
            mine = differences[:, start : start + grid.size]
            columns.append(np.cumsum(mine.ravel(), dtype=np.int32).reshape(mine.shape))
            start += grid.size
        found.append(columns)
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def refining_bits(coded: bytes, grids: Sequence[Grid], units: int, restart: int) -> list[NDArray[np.uint8]]:
    """The next bit of DC coefficients, as a later scan gives it: (units, blocks in a unit) of each component.

    Raises:
        OSError: the data is damaged.
    """
    size = sum(grid.size for grid in grids)
    found = []
    for count, part in _intervals(coded, units, restart):
        bits = np.unpackbits(np.frombuffer(part, np.uint8), count=min(count * size, 8 * len(part)))
        if len(bits) < count * size:
            raise OSError("a scan is damaged: it has too few bits")
        found.append(bits.reshape(count, size))
    ends = np.cumsum([grid.size for grid in grids])[:-1]
    return np.split(np.concatenate(found), ends, axis=1)


def first_scan(values: Values) -> bytes:
    """The data of a first scan of one component, by `EQUAL_CODES`, of its values row by row. Raises OSError."""
    differences = np.diff(values, prepend=np.int32(0))
    sizes = np.frexp(np.abs(differences).astype(np.float64))[1]  # bits of the absolute value
    if sizes.max() >= _CATEGORIES:
        raise OSError("a scan is damaged: its values are too far apart")
    low = np.where(differences < 0, differences + (1 << sizes) - 1, differences)
    return _packed(sizes << sizes | low, sizes + _CODE_BITS)


def scan_data(bits: NDArray[np.uint8]) -> bytes:
    """Bits as a scan's data: whole bytes, and none that could be a marker."""
    filled = np.concatenate([bits, np.ones(-len(bits) % 8, np.uint8)])
    return np.packbits(filled).tobytes().replace(b"\xff", b"\xff\0")


def _intervals(coded: bytes, units: int, restart: int) -> Iterator[tuple[int, bytes]]:
    """How many units each interval between restarts has, and its bytes."""
    parts = _RESTART.split(coded, _MOST_RESTARTS)
    each = restart or units
    if len(parts) != -(-units // each) or len(parts) > _MOST_RESTARTS:
        raise OSError("a scan is damaged: its restarts are not where they should be")
    for number, part in enumerate(parts):
        yield min(each, units - number * each), part.replace(b"\xff\0", b"\xff")


def _differences(coded: bytes, blocks: Sequence[Codes], count: int) -> Values:
    """What each block differs by from the one before it: (count, blocks in a unit)."""
    found = np.empty((count, len(blocks)), np.int32)
    place = done = 0
    while done < count:
        start, bit = divmod(place, 8)
        if start >= len(coded):
            raise OSError("a scan is damaged: it ends too early")
        chunk = coded[start : start + _CHUNK + _MARGIN]
        window = _windows(chunk + b"\xff" * _MARGIN)
        limit = 8 * min(_CHUNK, len(chunk))
        starts, last = _starts(window, blocks, range(bit, limit), count - done)
        place = 8 * start + last
        for column, codes in enumerate(blocks):
            found[done : done + len(starts), column], starts = _read(window, codes, starts)
        done += len(starts)
    if place > 8 * len(coded):
        raise OSError("a scan is damaged: it ends too early")
    return found


def _windows(data: bytes) -> NDArray[np.uint16]:
    """The sixteen bits at every bit."""
    padded = np.frombuffer(data + b"\xff\xff", np.uint8).astype(np.uint32)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    return (three[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)).astype(np.uint16).ravel()


def _starts(
    window: NDArray[np.uint16], blocks: Sequence[Codes], bits: range, most: int
) -> tuple[NDArray[np.int32], int]:
    """Where units begin, of which the first begins at the first of some bits, and where the one behind them does."""
    behind = np.arange(len(window), dtype=np.int32)
    following = {
        id(codes): np.minimum(behind + codes.lengths[window] + codes.categories[window], len(window) - 1)
        for codes in blocks
    }
    at = behind[: bits.stop]
    for codes in blocks:
        at = following[id(codes)][at]
    ends: list[int] = at.tolist()
    starts: list[int] = []
    place = bits.start
    while place < bits.stop and len(starts) < most:
        starts.append(place)
        place = ends[place]
    return np.array(starts, np.int32), place


def _read(window: NDArray[np.uint16], codes: Codes, places: NDArray[np.int32]) -> tuple[Values, NDArray[np.int32]]:
    """The values that stand at places, and the places behind them."""
    lengths, sizes = codes.lengths[window[places]], codes.categories[window[places]].astype(np.int32)
    if not lengths.all():
        raise OSError("a scan is damaged: it has a code that its table has not")
    middle = np.minimum(places + lengths, len(window) - 1)
    bits = window[middle].astype(np.int32) >> (16 - sizes)
    negative = (sizes > 0) & (bits < 1 << np.maximum(sizes - 1, 0))
    return np.where(negative, bits - (1 << sizes) + 1, bits), np.minimum(middle + sizes, len(window) - 1)


def _packed(values: Values, lengths: NDArray[np.int32]) -> bytes:
    """Values of so many bits each, one behind the other."""
    ends = np.cumsum(lengths)
    bits = np.empty(int(ends[-1]), np.uint8)
    for number in range(int(lengths.max())):  # from the last bit of each to its first
        has = lengths > number
        bits[ends[has] - 1 - number] = values[has] >> number & 1
    return scan_data(bits)
