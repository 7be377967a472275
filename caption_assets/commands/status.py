"""`caption-assets status`: what is done, stale, missing and failed, per shard and perspective."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.table import Table

from caption_assets.captioning.catalog import open_views
from caption_assets.commands.output import table_console
from caption_assets.config import PipelineConfig, load_config

_COUNTS = """
WITH pictures AS (SELECT dataset, shard, count(DISTINCT media_id) AS pictures FROM media GROUP BY ALL),
open AS (
    SELECT perspective, shard, count(*) FILTER (reason = 'missing') AS missing,
           count(*) FILTER (reason IN ('stale', 'inputs_changed')) AS stale,
           count(*) FILTER (reason = 'failed') AS failed,
           string_agg(DISTINCT why, '; ' ORDER BY why) FILTER (reason IN ('stale', 'inputs_changed')) AS why,
           sum(seconds) AS seconds, sum(cost) AS cost
    FROM stale GROUP BY ALL
)
SELECT s.dataset, s.shard, w.perspective, coalesce(p.pictures, 0) AS pictures,
       coalesce(p.pictures, 0) - coalesce(missing, 0) - coalesce(stale, 0) - coalesce(failed, 0) AS done,
       coalesce(missing, 0) AS missing, coalesce(stale, 0) AS stale, coalesce(failed, 0) AS failed,
       s.planned, s.media, s.media_failures, o.why, o.seconds AS redo_seconds, o.cost AS redo_cost
FROM shards s CROSS JOIN (SELECT perspective FROM perspectives WHERE fingerprint IS NOT NULL) w
LEFT JOIN pictures p USING (shard) LEFT JOIN open o ON o.shard = s.shard AND o.perspective = w.perspective
ORDER BY s.shard, w.perspective
"""


def read_status(config: PipelineConfig) -> list[dict[str, Any]]:
    """One entry for every shard and enabled perspective."""
    with open_views(config) as connection:
        result = connection.sql(_COUNTS)
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def show_status(*, as_json: bool) -> None:
    """Print the status as a table or as JSON."""
    entries = read_status(load_config(check_paths=False))  # what is captioned stays visible without its source
    if as_json:
        print(json.dumps(entries))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("shard", "perspective", "pictures", "done", "missing", "stale", "failed", "state"):
        table.add_column(column, no_wrap=True)
    for entry in entries:
        counts = [str(entry[name]) for name in ("pictures", "done", "missing", "stale", "failed")]
        table.add_row(entry["shard"], entry["perspective"], *counts, state_of(entry))
    console = table_console()
    console.print(table)
    for line in to_do(entries):
        console.print(line)


def to_do(entries: list[dict[str, Any]]) -> list[str]:
    """A line for every perspective not up to date: how much, why, and what it takes at the rate of past runs."""
    lines = []
    for name in sorted({entry["perspective"] for entry in entries}):
        own = [entry for entry in entries if entry["perspective"] == name]
        counts = {word: sum(entry[word] for entry in own) for word in ("missing", "stale", "failed")}
        if not any(counts.values()):
            continue
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        why = "; ".join(sorted({entry["why"] for entry in own if entry["why"]}))
        known = [entry for entry in own if entry["redo_seconds"] is not None]
        takes = f", about {sum(entry['redo_seconds'] for entry in known):.0f} s" if known else ""
        priced = [entry["redo_cost"] for entry in own if entry["redo_cost"] is not None]
        cost = f" and {sum(priced):.2f} in the engine's currency" if priced else ""
        lines.append(f"{name}: {told}{f' ({why})' if why else ''}{takes}{cost}")
    return lines


def state_of(entry: dict[str, Any]) -> str:
    """A shard and perspective in one word or two."""
    if entry["media"] + entry["media_failures"] < entry["planned"]:
        return "no media yet" if not entry["media"] else "media incomplete"
    if entry["missing"] == entry["pictures"] and entry["pictures"]:
        return "pending"
    if entry["missing"]:
        return "incomplete"
    if entry["stale"]:
        return "stale"
    return "done with errors" if entry["failed"] or entry["media_failures"] else "done"
