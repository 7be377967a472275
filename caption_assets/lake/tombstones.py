"""Tombstones: what was deleted, and must never come back. One file a deletion, never changed.

A row with a `media_id` forbids these bytes in every dataset; its uri says where they were. A row without one forbids
what a dataset has under this uri, whatever its bytes. Removing the file takes a deletion's ban back, not the deletion.

Whoever writes media or captions reads the tombstones after the last file that he puts in place, and a deletion writes
its tombstone before it looks at any file: so one of the two sees the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake, table_bytes


@dataclass(frozen=True)
class Tombstones:
    """All that was deleted, as of some instant."""

    files: tuple[str, ...] = ()
    media_ids: frozenset[str] = frozenset()
    uris: frozenset[tuple[str, str]] = frozenset()
    """(dataset, uri)."""

    def __bool__(self) -> bool:
        return bool(self.media_ids or self.uris)

    def forbid(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the media table is of a deleted picture."""
        return row["media_id"] in self.media_ids or (row["dataset"], row["uri"]) in self.uris


_read: WeakKeyDictionary[Lake, Tombstones] = WeakKeyDictionary()


def read_tombstones(lake: Lake) -> Tombstones:
    """The tombstones as they are now; files that were read before are not read again."""
    files = _files(lake)
    known = _read.get(lake, Tombstones())
    if known.files != files:
        rows = lake.read_columns(files, tables.TOMBSTONES, ["media_id", "dataset", "uri"]).to_pylist()
        known = Tombstones(
            files,
            frozenset(row["media_id"] for row in rows if row["media_id"]),
            frozenset((row["dataset"], row["uri"]) for row in rows if not row["media_id"]),
        )
        _read[lake] = known
    return known


def write_tombstone(lake: Lake, rows: list[dict[str, Any]]) -> None:
    """Put a deletion's tombstone in place: durable, whole, and beside all others."""
    stamp = tables.now().strftime("%Y%m%dT%H%M%S")
    path = f"{layout.TOMBSTONES}/{stamp}-{uuid.uuid4().hex[:12]}.parquet"
    lake.write(path, table_bytes(tables.table(rows, tables.TOMBSTONES)))


def datasets_of(lake: Lake, media_ids: Collection[str]) -> set[str]:
    """The datasets that had these pictures when they were deleted."""
    where = pc.field("media_id").isin(pa.array(sorted(media_ids), pa.string()))
    found = lake.read_columns(_files(lake), tables.TOMBSTONES, ["dataset"], where)
    return {dataset for dataset in found["dataset"].to_pylist() if dataset}


def _files(lake: Lake) -> tuple[str, ...]:
    names = lake.list(layout.TOMBSTONES)
    return tuple(f"{layout.TOMBSTONES}/{name}" for name in names if name.endswith(".parquet"))
