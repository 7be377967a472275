"""New items that wait for others, so that a shard is worth a run; and how long they may wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.sources.base import Item

LONGEST_SECONDS = 3600.0
_DOUBLES_AFTER = 16

Noticed = tuple[Item, datetime]
"""An item, and when it was noticed."""

_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("source", pa.string()),
        ("sidecars", pa.list_(pa.string())),
        ("noticed_at", pa.timestamp("us", "UTC")),
    ]
)


def wait_seconds(shortest: float, small: int) -> float:
    """How long a new item waits for others.

    It doubles with every 16 shards that the day closed before they were full, up to an hour:
    `min(shortest * 2 ** (small // 16), 3600)`. So a day has about 120 of them, however its pictures trickle in.

    Args:
        shortest: `max_wait_seconds` of the dataset; 0: never wait.
        small: shards of today that were closed before they were full.
    """
    return min(shortest * 2.0 ** min(small // _DOUBLES_AFTER, 32), max(shortest, LONGEST_SECONDS))


def waited(waiting: Sequence[Noticed], now: datetime, small: int) -> float:
    """For how many seconds the oldest item has waited; 0.0 where there is none.

    An item waits from when it was last changed, or noticed where that is earlier. On a day of many small shards it
    waits from when it was noticed: old files that trickle in would never wait for each other.
    """
    few = small < _DOUBLES_AFTER
    since = (min(item.modified or at, at) if few else at for item, at in waiting)
    return max(((now - each).total_seconds() for each in since), default=0.0)


def read_waiting(lake: Lake, dataset: str) -> list[Noticed]:
    """The items that wait, also those that were planned meanwhile."""
    try:
        rows = lake.read_table(layout.waiting_file(dataset)).to_pylist()
    except FileNotFoundError:
        return []
    return [(_item(row), row["noticed_at"]) for row in rows]


def write_waiting(lake: Lake, dataset: str, waiting: Sequence[Noticed]) -> None:
    """Let these items wait, and no others: the file is replaced as a whole."""
    rows = [
        {
            "uri": item.uri,
            "etag": item.etag,
            "size": item.size,
            "modified": item.modified,
            "source": json.dumps(item.source, ensure_ascii=False, sort_keys=True),
            "sidecars": list(item.sidecars),
            "noticed_at": noticed_at,
        }
        for item, noticed_at in waiting
    ]
    lake.write(layout.waiting_file(dataset), table_bytes(tables.table(rows, _SCHEMA)))


def _item(row: dict[str, Any]) -> Item:
    source = json.loads(row["source"])
    return Item(row["uri"], row["etag"], row["size"], row["modified"], source, tuple(row["sidecars"]))
