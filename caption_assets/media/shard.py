"""Materialize the media of a shard: fetch, decode, normalise, pack, index. Finished work is never repeated.

What the index already holds under the present normalisation is kept; failures that may pass are tried again. A repair
writes the next generation of the segment, commits the index, then deletes the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from caption_assets.config import Media
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.media.build import Row, ShardBuild, failure_fingerprint, segment_path
from caption_assets.media.normalise import normalisation_id
from caption_assets.sources.base import Source
from caption_assets.sources.planner import read_plan


@dataclass
class MediaReport:
    """What happened to a shard: all counts are items of its plan."""

    shard: Shard
    planned: int = 0
    rows: int = 0
    new: int = 0
    failed: int = 0
    failure_kinds: Counter[str] = field(default_factory=Counter)
    stored_bytes: int = 0


def read_index(lake: Lake, shard: Shard) -> list[Row]:
    """The media rows of a shard; empty where it has none yet."""
    return _rows(lake, layout.media_index(shard))


def read_failures(lake: Lake, stage: str, shard: Shard) -> list[Row]:
    """The failures of one stage of a shard."""
    return _rows(lake, layout.failures_file(stage, shard))


def read_picture(lake: Lake, row: dict[str, Any]) -> bytes:
    """The stored bytes of a media row: one range read. Raises FileNotFoundError when its segment is gone."""
    return lake.read_range(segment_path(row), row["offset"], row["length"])


def build_media(
    lake: Lake,
    shard: Shard,
    source: Source,
    media: Media,
    run_id: str,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MediaReport:
    """Bring a shard's media up to date.

    Raises:
        FileNotFoundError: the shard was never planned.
    """
    items = read_plan(lake, shard)
    index, failures = read_index(lake, shard), read_failures(lake, "media", shard)
    kept = {} if force or _lost(lake, index) else _current(index, media)
    settled = {} if force else _settled(failures, media)
    build = ShardBuild(lake, shard, source, media, run_id, kept, failures, settled)

    complete = lake.exists(layout.media_index(shard)) and len(kept) == len(index)
    pending = [item for item in items if item.key not in kept and item.key not in settled]
    if complete and not pending:
        build.tidy(index)
        return _report(shard, len(items), index, [row for row in failures if _key(row) not in kept], new=0)
    if complete and not build.any_succeeds(pending):
        # the same pictures as before: what changed is only how often the others failed
        failed = build.failures(items)
        lake.write(layout.failures_file("media", shard), table_bytes(tables.table(failed, tables.FAILURES)))
        return _report(shard, len(items), index, failed, new=0)

    rows, failed = build.write(items, index, progress)
    lake.write(layout.failures_file("media", shard), table_bytes(tables.table(failed, tables.FAILURES)))
    lake.write(layout.media_index(shard), table_bytes(tables.table(rows, tables.MEDIA)))
    build.remove_older_segments()
    return _report(shard, len(items), rows, failed, new=sum(_key(row) not in kept for row in rows))


def _rows(lake: Lake, path: str) -> list[Row]:
    try:
        rows: list[Row] = lake.read_table(path).to_pylist()
    except FileNotFoundError:
        return []
    return rows


def _key(row: Row) -> tuple[str, str]:
    return row["uri"], row["etag"]


def _lost(lake: Lake, index: list[Row]) -> bool:
    """Whether the segment is absent, or too short for its index."""
    if not index:
        return False
    size = lake.size(segment_path(index[0]))
    return size is None or size < max(row["offset"] + row["length"] for row in index)


def _current(index: list[Row], media: Media) -> dict[tuple[str, str], Row]:
    """The rows made with the present settings; of truncated files only where they are allowed."""
    return {
        _key(row): row
        for row in index
        if row["normalisation"] == normalisation_id(media) and (media.allow_truncated or not row.get("truncated"))
    }


def _settled(failures: list[Row], media: Media) -> dict[tuple[str, str], Row]:
    """The failures that trying again under the present settings would only repeat."""
    return {
        _key(row): row
        for row in failures
        if not row["retryable"] and row["fingerprint"] == failure_fingerprint(media, row["kind"])
    }


def _report(shard: Shard, planned: int, rows: list[Row], failed: list[Row], *, new: int) -> MediaReport:
    return MediaReport(
        shard=shard,
        planned=planned,
        rows=len(rows),
        new=new,
        failed=len(failed),
        failure_kinds=Counter(row["kind"] for row in failed),
        stored_bytes=sum({row["media_id"]: row["length"] for row in rows}.values()),
    )
