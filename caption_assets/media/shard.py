"""Materialize the media of a shard: fetch, decode, normalise, pack, index. Finished work is never repeated.

What the index already holds under the present normalisation is kept; failures that may pass are tried again. A repair
writes the next generation of the segment, commits the index, then deletes the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from caption_assets.config import Media
from caption_assets.lake import layout
from caption_assets.lake.heartbeats import LookProgress
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import read_tombstones
from caption_assets.media import generations
from caption_assets.media.build import ShardBuild, failure_fingerprint
from caption_assets.media.deletion import complete_deletions, deleted_failures
from caption_assets.media.normalise import normalisation_id
from caption_assets.media.progress import ProgressMeter
from caption_assets.media.stored import Row, commit, key_of, read_whole_index, segment_path, write_failures
from caption_assets.media.stored import read_failures as read_failures
from caption_assets.media.stored import read_index as read_index
from caption_assets.media.stored import read_original as read_original
from caption_assets.media.stored import read_picture as read_picture
from caption_assets.media.verify import verify_shard
from caption_assets.sources.base import Source
from caption_assets.sources.planner import read_plan

Watch = Callable[[Callable[[], Sequence[LookProgress]]], None]


@dataclass
class MediaReport:
    """What happened to a shard: all counts are items of its plan."""

    shard: Shard
    planned: int = 0
    rows: int = 0
    new: int = 0
    failed: int = 0
    failure_kinds: Counter[str] = field(default_factory=Counter)
    failed_now: int = 0
    """Of the failures, those of this run, rather than once and for good."""
    damaged: int = 0
    """Of the pictures that were there, those that verification found damaged."""
    stored_bytes: int = 0
    rate: float = 0.0
    """Items that came to their end a second."""


def build_media(
    lake: Lake,
    shard: Shard,
    source: Source,
    media: Media,
    run_id: str,
    *,
    force: bool = False,
    verify: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda looks: None,
) -> MediaReport:
    """Bring a shard's media up to date, and carry out deletions, those that come meanwhile included.

    Args:
        force: make every picture again that was not deleted.
        verify: read every stored picture, and make those again that are damaged.
        tell: receives a line for people about every ten seconds.
        watch: receives what says how far the shard is, whenever it is asked.

    Raises:
        FileNotFoundError: the shard was never planned.
    """
    before = read_tombstones(lake)
    complete_deletions(lake, shard, run_id)
    report = _build(lake, shard, source, media, run_id, force, verify, tell, watch)
    if read_tombstones(lake) != before:  # the index may be newer than what the deletion saw
        complete_deletions(lake, shard, run_id)
        index, failures = read_index(lake, shard), read_failures(lake, "media", shard)
        now = _report(shard, report.planned, index, failures, new=report.new, damaged=report.damaged, run_id=run_id)
        report = replace(now, rate=report.rate)
    return report


def _build(
    lake: Lake,
    shard: Shard,
    source: Source,
    media: Media,
    run_id: str,
    force: bool,
    verify: bool,
    tell: Callable[[str], None],
    watch: Watch,
) -> MediaReport:
    items = read_plan(lake, shard)
    index, failures = read_whole_index(lake, shard), read_failures(lake, "media", shard)
    tombstones = read_tombstones(lake)
    damaged = verify_shard(lake, shard).damaged if verify else {}
    kept = {} if force or _lost(lake, index) else _current(index, media, damaged)
    settled = {} if force else _settled(failures, media, source)
    settled |= deleted_failures(shard, items, failures, tombstones, run_id)
    build = ShardBuild(lake, shard, source, media, run_id, kept, failures, settled, tombstones.media_ids)

    complete = lake.exists(layout.media_index(shard)) and len(kept) == len(index)
    pending = [item for item in items if item.key not in kept and item.key not in settled]
    repair = ProgressMeter(shard, len(pending), tell, kept=len(items) - len(pending))
    watch(lambda: [repair.progress()])
    if complete and (not pending or not build.any_succeeds(pending, repair)):
        # the same pictures as before: what can have changed is only how often the others failed
        failed = build.failures(items)
        if failed != failures:
            write_failures(lake, shard, failed)
        generations.tidy(lake, shard, index)
        return _report(shard, len(items), index, failed, new=0, damaged=0, run_id=run_id)

    meter = ProgressMeter(shard, len(items), tell)
    watch(lambda: [meter.progress()])
    rows, failed = build.write(items, index, meter)
    commit(lake, shard, rows, failed)
    build.remove_older_segments()
    new = sum(key_of(row) not in kept for row in rows)
    report = _report(shard, len(items), rows, failed, new=new, damaged=len(damaged), run_id=run_id)
    return replace(report, rate=meter.progress().rate)


def _lost(lake: Lake, index: list[Row]) -> bool:
    """Whether the segment is absent, or too short for its index."""
    if not index:
        return False
    size = lake.size(segment_path(index[0]))
    ends = ((row["offset"], row["length"]) for row in index)
    originals = ((row.get("original_offset") or 0, row.get("original_length") or 0) for row in index)
    return size is None or size < max(offset + length for offset, length in chain(ends, originals))


def _current(index: list[Row], media: Media, damaged: Collection[str]) -> dict[tuple[str, str], Row]:
    """The rows made with the present settings, not known to be damaged; of truncated files only where allowed."""
    return {
        key_of(row): row
        for row in index
        if row["normalisation"] == normalisation_id(media)
        and row["media_id"] not in damaged
        and (media.allow_truncated or not row.get("truncated"))
    }


def _settled(failures: list[Row], media: Media, source: Source) -> dict[tuple[str, str], Row]:
    """The failures that trying again under the present settings would only repeat."""
    return {
        key_of(row): row
        for row in failures
        if not row["retryable"] and row["fingerprint"] == failure_fingerprint(media, source, row["kind"])
    }


def _report(
    shard: Shard, planned: int, rows: list[Row], failed: list[Row], *, new: int, damaged: int, run_id: str
) -> MediaReport:
    return MediaReport(
        shard=shard,
        planned=planned,
        rows=len(rows),
        new=new,
        failed=len(failed),
        failure_kinds=Counter(row["kind"] for row in failed),
        failed_now=sum(row["run_id"] == run_id for row in failed),
        damaged=damaged,
        stored_bytes=sum({row["media_id"]: _stored_bytes(row) for row in rows}.values()),
    )


def _stored_bytes(row: Row) -> int:
    twice = row.get("original_offset") not in {None, row["offset"]}
    return int(row["length"]) + (int(row["original_length"]) if twice else 0)
