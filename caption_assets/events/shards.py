"""Events of shards, read from the `runs` table: a file there is what a step did to a shard, and never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from caption_assets.events.event import Event
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake

Row = Mapping[str, Any]


def shard_event(lake: Lake, path: str) -> Event | None:
    """The event of one file of the `runs` table; None for a file without rows.

    Raises:
        FileNotFoundError: it is not there (any more).
        ValueError: it is no file of the table.
    """
    rows: list[Row] = lake.read_table(path).to_pylist()
    if not rows:
        return None
    shard, ended_at = Shard.parse(rows[0]["shard"]), max(row["ended_at"] for row in rows)
    if rows[0]["step"] == "media":
        return Event.of("shard.media", [path], ended_at, [shard.dataset], _media(lake, shard, rows[0]))
    return Event.of("shard.captions", [path], ended_at, [shard.dataset], _captions(lake, shard, rows))


def _media(lake: Lake, shard: Shard, row: Row) -> dict[str, Any]:
    failures = layout.failures_file("media", shard)
    return {
        "run_id": row["run_id"],
        "shard": shard.key,
        "planned": row["done"] + row["already_there"] + row["failed"],
        "done": row["done"],
        "already_there": row["already_there"],
        "failed": row["failed"],
        "failure_kinds": _kinds(row),
        "seconds": row["seconds"],
        "results": {
            "index": lake.url(layout.media_index(shard)),
            "failures": lake.url(failures) if row["failed"] else None,
        },
    }


def _captions(lake: Lake, shard: Shard, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "run_id": rows[0]["run_id"],
        "shard": shard.key,
        "perspectives": [_perspective(lake, shard, row) for row in rows],
    }


def _perspective(lake: Lake, shard: Shard, row: Row) -> dict[str, Any]:
    name, fingerprint = row["perspective"], row["fingerprint"]
    return {
        "perspective": name,
        "fingerprint": fingerprint,
        "model": row["model"],
        "planned": row["done"] + row["reused"] + row["already_there"] + row["failed"],
        "done": row["done"],
        "reused": row["reused"],
        "already_there": row["already_there"],
        "failed": row["failed"],
        "failure_kinds": _kinds(row),
        "prompt_tokens": row["prompt_tokens"],
        "cached_tokens": row["cached_tokens"],
        "completion_tokens": row["completion_tokens"],
        "seconds": row["seconds"],
        "cost": row["cost"],
        "results": {
            "rows": lake.url(layout.captions_folder(name, fingerprint, shard)),
            "failures": lake.url(layout.failures_file(name, shard)) if row["failed"] else None,
        },
    }


def _kinds(row: Row) -> dict[str, int]:
    """Failures by kind; files of earlier releases do not tell."""
    return dict(json.loads(row.get("failure_kinds") or "{}"))
