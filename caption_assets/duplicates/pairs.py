"""`duplicates/pairs.parquet`: the pairs of different hashes that are close, one file, replaced when the hashes change.

Pairs of pictures are not stored: ten thousand blank pages have one hash and fifty million pairs. The view
`near_duplicates` joins the media to the hashes. Of a lake whose hashes are nearly all alike, the closest `max_pairs`
pairs are kept; how many there were is counted to the last one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from caption_assets.config import NearDuplicates
from caption_assets.duplicates.hamming import Hashes, Pairs, near_pairs
from caption_assets.duplicates.hashes import LakeHashes, hex_digits, read_hashes
from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake

SHOWN = 6
"""Pairs that a report names."""

_VERSION = 1
"""Part of the digest: a change of what the file holds makes the old ones stale."""
_METADATA = b"caption_assets.near_duplicates"
_ROW_GROUP = 1 << 20
_PROGRESS_SECONDS = 10.0
_BITS = 29
"""Of a position in a packed pair: distance, a and b share 64 bits, so that 16-byte rows are sorted as numbers."""
_POSITION = np.uint64((1 << _BITS) - 1)


@dataclass(frozen=True)
class Close:
    """Two hashes, as hex digits, and the bits in which they differ; equal ones if they are several pictures'."""

    phash_a: str
    phash_b: str
    distance: int


@dataclass(frozen=True)
class NearReport:
    """What is known of a lake's near duplicates.

    Attributes:
        hashes: of its media, how many are distinct, and how many of these belong to several pictures.
        found: pairs of different hashes, by distance from 0.
        stored: how many of these are in the lake.
        searched: False where nothing had changed.
        digest: names the hashes and settings.
        closest: the first few pairs.
    """

    hashes: LakeHashes
    found: list[int]
    stored: int
    searched: bool
    digest: str
    closest: list[Close]

    @property
    def left_out(self) -> int:
        """Pairs found that are not in the lake."""
        return sum(self.found) - self.stored


def find_near_duplicates(
    lake: Lake,
    views: duckdb.DuckDBPyConnection,
    wanted: NearDuplicates,
    tell: Callable[[str], None] = lambda line: None,
) -> NearReport:
    """Bring the file up to date; it is left alone where neither hashes nor settings changed.

    Args:
        lake: where the file goes.
        views: over that lake, as it is now.
        wanted: the distance, and how many pairs are stored.
        tell: told every few seconds how far the search is.

    Raises:
        ValueError: a hash in an index is none, or there are too many of them.
    """
    hashes = read_hashes(views)
    digest = _digest(hashes.distinct, wanted)
    known = _stored(lake, digest)
    stored = known or _search(lake, hashes.distinct, wanted, digest, tell)
    equal = [Close(phash, phash, 0) for phash in hex_digits(hashes.shared[:SHOWN]).to_pylist()]
    closest = [*equal, *stored.first][:SHOWN]
    return NearReport(hashes, stored.found, stored.pairs, known is None, digest, closest)


def remove_damaged(lake: Lake) -> None:
    """Delete the file if it is none that can be read: no view over the lake opens then, and it can be made again."""
    try:
        with lake.open(layout.NEAR_DUPLICATES) as opened:
            pq.ParquetFile(opened)
    except FileNotFoundError:
        return
    except pa.ArrowInvalid:
        lake.remove(layout.NEAR_DUPLICATES)


def _digest(distinct: Hashes, wanted: NearDuplicates) -> str:
    head = json.dumps([_VERSION, wanted.distance, wanted.max_pairs]).encode()
    return hashlib.sha256(head + distinct.tobytes()).hexdigest()


@dataclass(frozen=True)
class _Stored:
    """What the file tells: pairs found by distance, how many of them it holds, and the first."""

    found: list[int]
    pairs: int
    first: list[Close]


def _stored(lake: Lake, digest: str) -> _Stored | None:
    """What is stored; None where it is not these hashes' file."""
    try:
        with lake.open(layout.NEAR_DUPLICATES) as opened:
            file = pq.ParquetFile(opened)
            told = json.loads(file.schema_arrow.metadata[_METADATA])
            if told["digest"] != digest:
                return None
            first = next(file.iter_batches(SHOWN, use_threads=False), None)  # see lake/parquet.py
            return _Stored(told["found"], file.metadata.num_rows, _close(first) if first else [])
    except (FileNotFoundError, TypeError, KeyError, ValueError):  # absent, or not written here
        return None


def _close(rows: pa.RecordBatch | pa.Table) -> list[Close]:
    return [Close(**row) for row in rows.to_pylist()]


def _search(lake: Lake, distinct: Hashes, wanted: NearDuplicates, digest: str, tell: Callable[[str], None]) -> _Stored:
    """Find the pairs and put the file in place."""
    if len(distinct) > 1 << _BITS:
        raise ValueError(f"{len(distinct)} different hashes are more than the {1 << _BITS} that can be compared")
    closest = _Closest(wanted)
    for pairs in near_pairs(distinct, wanted.distance, progress=_progress(tell, closest)):
        closest.add(pairs)
    found: list[int] = closest.found.tolist()
    told = json.dumps({"digest": digest, "found": found}).encode()
    schema = tables.NEAR_DUPLICATES.with_metadata({_METADATA: told})
    packed = closest.sorted()
    with lake.place(layout.NEAR_DUPLICATES) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(packed), _ROW_GROUP):
            writer.write_table(_unpacked(packed[start : start + _ROW_GROUP], distinct))
    return _Stored(found, len(packed), _close(_unpacked(packed[:SHOWN], distinct)))


def _unpacked(packed: NDArray[np.uint64], distinct: Hashes) -> pa.Table:
    """Pairs as the table has them."""
    columns = [
        hex_digits(distinct[(packed >> np.uint64(_BITS)) & _POSITION]),
        hex_digits(distinct[packed & _POSITION]),
        pa.array((packed >> np.uint64(2 * _BITS)).astype(np.int32)),
    ]
    return pa.Table.from_arrays(columns, schema=tables.NEAR_DUPLICATES)


class _Closest:
    """The closest pairs of all that were added, and how many of each distance there were."""

    def __init__(self, wanted: NearDuplicates) -> None:
        self.found: NDArray[np.int64] = np.zeros(wanted.distance + 1, np.int64)
        self._limit = wanted.max_pairs
        self._blocks: list[NDArray[np.uint64]] = []
        self._held = 0
        self._worst: np.uint64 | None = None

    def add(self, pairs: Pairs) -> None:
        """Count pairs, and keep those that may be among the closest."""
        self.found += np.bincount(pairs.distance, minlength=len(self.found))
        packed = pairs.distance.astype(np.uint64) << np.uint64(2 * _BITS)
        packed |= pairs.a.astype(np.uint64) << np.uint64(_BITS)
        packed |= pairs.b.astype(np.uint64)
        if self._worst is not None:
            packed = packed[packed < self._worst]
        self._blocks.append(packed)
        self._held += len(packed)
        if self._held > 2 * self._limit:
            self._shrink()

    def sorted(self) -> NDArray[np.uint64]:
        """The pairs to keep as numbers, by distance, then by hash; the result is held no longer."""
        if self._held > self._limit:
            self._shrink()
        kept: NDArray[np.uint64] = np.concatenate([np.empty(0, np.uint64), *self._blocks])
        self._blocks = []
        kept.sort()
        return kept

    def _shrink(self) -> None:
        held = np.concatenate(self._blocks)
        held.partition(self._limit - 1)
        self._worst = held[self._limit - 1]
        self._blocks, self._held = [held[: self._limit].copy()], self._limit


def _progress(tell: Callable[[str], None], closest: _Closest) -> Callable[[int, int], None]:
    """A callback that says every few seconds how far the search is."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _PROGRESS_SECONDS:
            told = now
            tell(f"{done / total:.0%} searched, {closest.found.sum()} pairs of hashes so far")

    return progress
