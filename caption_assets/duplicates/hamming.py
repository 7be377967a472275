"""All pairs of 64-bit hashes within a Hamming distance: exact, in memory that the number of pairs does not move.

Multi-index hashing (Norouzi, Punjani, Fleet: Fast search in Hamming space with multi-index hashing, CVPR 2012): the
bits are divided into chunks, and two hashes are compared only if they agree in a chunk up to a few flipped bits. It is
enough that chunk i allows `flips_i` of them where the sum of all (flips_i + 1) is the distance + 1: a pair that differs
more in every chunk is further apart. So some chunks may allow fewer than others, and one that allows -1 is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

BITS = 64
MAX_DISTANCE = 16

Hashes = NDArray[np.uint64]
Positions = NDArray[np.intp]

_BLOCK = 1 << 18
"""Candidates compared at once: their arrays stay in a processor's cache."""
_PROBE_COST = 2.5
"""What it takes to look for a hash's partners in a bucket, measured in comparisons of two hashes."""
_CHUNKS = range(3, MAX_DISTANCE + 2)
"""At least three, so that a chunk has at most 22 bits and its table of buckets 32 MB."""


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring bits of a hash, and how many of them may differ."""

    shift: int
    width: int
    flips: int

    @property
    def probes(self) -> int:
        """How many buckets a hash has partners in."""
        return sum(comb(self.width, flipped) for flipped in range(self.flips + 1))

    def of(self, hashes: Hashes) -> Hashes:
        """The chunk's bits of each hash, as a number."""
        return (hashes >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)

    def cost(self, count: int) -> float:
        """Steps to find all pairs among `count` hashes whose bits are random: its table, probes and candidates."""
        if self.flips < 0:
            return 0.0
        candidates = count * count / (2 << self.width)
        return float(1 << self.width) + self.probes * (_PROBE_COST * count + candidates)


@dataclass(frozen=True)
class Pairs:
    """Pairs by position in the hashes searched, `a` < `b`: three arrays of one length."""

    a: Positions
    b: Positions
    distance: NDArray[np.uint8]


def divide(count: int, distance: int) -> list[Chunk]:
    """The chunks with which `count` hashes take the least work; those that allow the most flips come first."""
    return min((_equal_chunks(chunks, distance) for chunks in _CHUNKS), key=lambda each: _cost(each, count))


def near_pairs(
    hashes: Hashes,
    distance: int,
    *,
    chunks: Sequence[Chunk] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Pairs]:
    """All pairs of hashes at most `distance` apart, each once, in blocks of any order.

    Takes about 100 bytes a hash. The time grows with the pairs that agree in a chunk, so with the square of a crowd of
    hashes that are all alike: collapse equal ones before.

    Args:
        hashes: shape (n,).
        distance: 0 to 16 bits.
        chunks: how to divide the bits; default: what costs least.
        progress: told now and then how many of how many probes are done.

    Raises:
        ValueError: the distance is out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"a distance of {distance} is not supported: use 0 to {MAX_DISTANCE}")
    used = [chunk for chunk in chunks or divide(len(hashes), distance) if chunk.flips >= 0]
    done, total = 0, sum(chunk.probes for chunk in used)
    for number, chunk in enumerate(used):
        buckets = _Buckets(hashes, chunk)
        for left, low, high in buckets.probes():
            yield from _compare(buckets, left, low, high, distance, used[:number])
            done += 1
            progress(done, total)


def _equal_chunks(count: int, distance: int) -> list[Chunk]:
    """`count` chunks of about one width, with the flips that the distance asks for, spread evenly."""
    flips, more = divmod(distance - count + 1, count)
    width, wider = divmod(BITS, count)
    chunks: list[Chunk] = []
    shift = 0
    for number in range(count):
        chunks.append(Chunk(shift, width + (number < wider), flips + (number < more)))
        shift += chunks[-1].width
    return chunks


def _cost(chunks: Sequence[Chunk], count: int) -> float:
    return sum(chunk.cost(count) for chunk in chunks)


class _Buckets:
    """Hashes sorted by a chunk's bits; the bucket of key k is at positions `starts[k]` to `starts[k + 1]`."""

    def __init__(self, hashes: Hashes, chunk: Chunk) -> None:
        keys = chunk.of(hashes).astype(np.intp)
        self.chunk = chunk
        self.order: Positions = np.argsort(keys, kind="stable")
        self.hashes: Hashes = hashes[self.order]
        self.keys: Positions = keys[self.order]
        self.starts: Positions = np.zeros((1 << chunk.width) + 1, np.intp)
        np.cumsum(np.bincount(keys, minlength=1 << chunk.width), out=self.starts[1:])

    def probes(self) -> Iterator[tuple[Positions, Positions, Positions]]:
        """For every set of flips: positions of hashes, and from where to where each one's candidates are."""
        everyone = np.arange(len(self.keys))
        yield everyone, everyone + 1, self.starts[self.keys + 1]
        for top in range(self.chunk.width if self.chunk.flips else 0):
            # two buckets meet once: from the one in which the highest flipped bit is 0
            left = np.flatnonzero(self.keys & (1 << top) == 0)
            keys = self.keys[left] | (1 << top)
            for flip in _flips(top, self.chunk.flips - 1):
                partners = keys ^ flip
                yield left, self.starts[partners], self.starts[partners + 1]


def _flips(width: int, most: int) -> Iterator[int]:
    """All numbers of `width` bits of which at most `most` are 1."""
    for count in range(most + 1):
        for bits in combinations(range(width), count):
            yield sum(1 << bit for bit in bits)


def _compare(
    buckets: _Buckets, left: Positions, low: Positions, high: Positions, distance: int, earlier: Sequence[Chunk]
) -> Iterator[Pairs]:
    """Compare each hash at `left` with those at positions `low` to `high`, a block of candidates at a time."""
    some = high > low
    left, low, counts = left[some], low[some], (high - low)[some]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(left):
        before = ends[begin] - counts[begin]
        end = max(begin + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        block = slice(begin, end)
        within = ends[block] - before
        right = np.arange(within[-1]) + np.repeat(low[block] - (within - counts[block]), counts[block])
        differ = np.repeat(buckets.hashes[left[block]], counts[block]) ^ buckets.hashes[right]
        apart = np.bitwise_count(differ)
        hits = np.flatnonzero(apart <= distance)
        for chunk in earlier:
            hits = hits[np.bitwise_count(chunk.of(differ[hits])) > chunk.flips]
        if len(hits):
            one = buckets.order[left[begin + np.searchsorted(within, hits, side="right")]]
            other = buckets.order[right[hits]]
            yield Pairs(np.minimum(one, other), np.maximum(one, other), apart[hits])
        begin = end
