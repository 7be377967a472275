"""Departures: items whose source object was deleted or replaced. Marks, append-only; nothing is erased.

A mark says of an item that it is gone, or back; the latest one holds. Marked items leave the views, the exports and
what is left to do, but their bytes and captions stay: coming back under the same etag, they show again at no cost.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_at_once

_MANY_FILES = 64
"""Of a dataset's marks; once there are more they become one."""
_TICK = timedelta(microseconds=1)

Key = tuple[str, str]
"""(uri, etag)."""


@dataclass(frozen=True)
class Departed:
    """An item of a dataset, and the shard it was planned in."""

    shard: str
    uri: str
    etag: str

    @property
    def key(self) -> Key:
        """What makes it this item in its dataset."""
        return self.uri, self.etag


@dataclass(frozen=True)
class _Marks:
    """All marks of a dataset, as of some instant: the latest row of each item."""

    files: frozenset[str] = frozenset()
    latest: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def away(self) -> frozenset[Key]:
        return frozenset(key for key, row in self.latest.items() if row["gone"])


_read: WeakKeyDictionary[Lake, dict[str, _Marks]] = WeakKeyDictionary()


def departed(lake: Lake, dataset: str) -> frozenset[Key]:
    """(uri, etag) of the items that are gone now; files that were read before are not read again."""
    return _marks(lake, dataset).away()


def departed_items(lake: Lake, dataset: str) -> list[Departed]:
    """The items that are gone now, with the shards in which they were planned."""
    return [Departed(row["shard"], *key) for key, row in _marks(lake, dataset).latest.items() if row["gone"]]


def departed_from(lake: Lake, dataset: str) -> list[Shard]:
    """The shards in which the items that are gone now were planned."""
    keys = {row["shard"] for row in _marks(lake, dataset).latest.values() if row["gone"]}
    return sorted(map(Shard.parse, keys))


def hidden(lake: Lake, dataset: str, *, retain: bool) -> frozenset[Key]:
    """The items that nobody is to see: those that are gone, unless the dataset retains them."""
    return frozenset() if retain else departed(lake, dataset)


def record(lake: Lake, dataset: str, gone: Sequence[Departed], back: Sequence[Departed], run_id: str) -> None:
    """Mark items. What is marked so already is left alone; one file, or none.

    Args:
        gone: planned items that their source no longer has.
        back: items that it has; of an item that is in both, this holds.
    """
    marks = _marks(lake, dataset)
    away, seen = marks.away(), {item.key for item in back}
    changed = [(item, True) for item in _each(gone) if item.key not in away | seen]
    changed += [(item, False) for item in _each(back) if item.key in away]
    if not changed:
        return
    stamp = _after(marks)
    rows = [
        {
            "dataset": dataset,
            "shard": item.shard,
            "uri": item.uri,
            "etag": item.etag,
            "gone": is_gone,
            "run_id": run_id,
            "created_at": stamp,
        }
        for item, is_gone in changed
    ]
    _write(lake, dataset, rows, stamp)
    if len(marks.files) >= _MANY_FILES:
        _compact(lake, dataset)


def _each(items: Iterable[Departed]) -> Iterable[Departed]:
    return {item.key: item for item in items}.values()


def _after(marks: _Marks) -> datetime:
    """Now, or just after the latest mark, should another writer's clock be ahead."""
    times: list[datetime] = [row["created_at"] for row in marks.latest.values()]
    return max([tables.now(), *(each + _TICK for each in times)])


@again_at_once
def _marks(lake: Lake, dataset: str) -> _Marks:
    known = _read.setdefault(lake, {})
    folder = layout.departures_folder(dataset)
    files = frozenset(f"{folder}/{name}" for name in lake.list(folder) if name.endswith(".parquet"))
    before = known.get(dataset, _Marks())
    if not before.files <= files:
        before = _Marks()  # some were joined into one
    if before.files == files:
        return before
    rows = lake.read_columns(sorted(files - before.files), tables.DEPARTURES, tables.DEPARTURES.names)
    known[dataset] = _Marks(files, _latest(before.latest, rows.to_pylist()))
    return known[dataset]


def _latest(before: dict[Key, dict[str, Any]], rows: list[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    latest = dict(before)
    for row in rows:
        key = row["uri"], row["etag"]
        if key not in latest or _order(row) > _order(latest[key]):
            latest[key] = row
    return latest


def _order(row: dict[str, Any]) -> tuple[datetime, bool]:
    """Of two marks of one instant, that it is back holds."""
    return row["created_at"], not row["gone"]


def _write(lake: Lake, dataset: str, rows: list[dict[str, Any]], stamp: datetime) -> None:
    name = f"{stamp.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:12]}.parquet"
    lake.write(f"{layout.departures_folder(dataset)}/{name}", table_bytes(tables.table(rows, tables.DEPARTURES)))


def _compact(lake: Lake, dataset: str) -> None:
    """Join a dataset's marks in one file; a reader that misses one of the others looks again."""
    marks = _marks(lake, dataset)
    _write(lake, dataset, list(marks.latest.values()), _after(marks))
    for path in marks.files:
        lake.remove(path)
