"""Deletes pictures: a tombstone first, then their media, then their captions, so that a death in between is made good.

From the tombstone on no view, run or export shows them. Running the command again, or the shard's next media or caption
run, removes what is still there. Their items stay planned, as failures `deleted`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from caption_assets.lake import layout, tables
from caption_assets.lake.erasing import count_rows, erase
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import Tombstones, read_tombstones, write_tombstone
from caption_assets.media import generations
from caption_assets.media.copying import copy_pictures
from caption_assets.media.segment import SegmentWriter
from caption_assets.media.stored import (
    Row,
    commit,
    failure_row,
    key_of,
    read_failures,
    read_whole_index,
)
from caption_assets.sources.base import Item
from caption_assets.sources.planner import read_plan

_DELETED = "deleted on request; its tombstone says why"
_LOST = "its stored bytes are lost or damaged; the next run makes it again"
_TRIES = 10


@dataclass(frozen=True)
class PlannedDeletion:
    """What a deletion forbids from now on, and what of it is in the lake."""

    media_ids: frozenset[str]
    uris: frozenset[tuple[str, str]]
    """(dataset, uri)."""
    rows: list[Row]
    """Media rows that go: media_id, dataset, shard, uri."""
    captions: int
    """Caption rows that go."""

    @property
    def absent(self) -> list[str]:
        """What was asked for and is not in the lake."""
        found = {row["media_id"] for row in self.rows}
        places = {(row["dataset"], row["uri"]) for row in self.rows}
        return sorted(self.media_ids - found) + [f"{name}: {uri}" for name, uri in sorted(self.uris - places)]


def plan_deletion(
    lake: Lake, media_ids: Collection[str], uris: Collection[tuple[str, str]] = frozenset()
) -> PlannedDeletion:
    """Find what a deletion is about: these pictures, and those that datasets have under these (dataset, uri)."""
    there = {row["media_id"] for row in _find(lake, frozenset(), frozenset(uris))}
    doomed = frozenset(media_ids) | there
    return PlannedDeletion(doomed, frozenset(uris), _find(lake, doomed, frozenset(uris)), count_rows(lake, doomed))


def delete(
    lake: Lake,
    planned: PlannedDeletion,
    reason: str,
    contributor: str,
    run_id: str,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the tombstone and carry it out, with all that earlier deletions left undone; returns caption rows removed.

    Args:
        tell: receives the key of each shard whose media were written anew.
    """
    standing = read_tombstones(lake)
    says = {"reason": reason, "contributor": contributor, "created_at": tables.now()}
    known = {(row["media_id"], row["dataset"], row["uri"]) for row in planned.rows}
    absent = planned.media_ids - {media_id for media_id, _, _ in known}
    rows = [*sorted(known), *((media_id, None, None) for media_id in sorted(absent))]
    new: list[tuple[str | None, str | None, str | None]] = [row for row in rows if row[0] not in standing.media_ids]
    new += [(None, *place) for place in sorted(planned.uris - standing.uris)]
    if new:
        columns = ("media_id", "dataset", "uri")
        write_tombstone(lake, [dict(zip(columns, row, strict=True)) | says for row in new])
    return _complete(lake, run_id, tell)


def complete_deletions(lake: Lake, shard: Shard, run_id: str) -> None:
    """Remove what a shard still has of deleted pictures. Without deletions this is one look into a folder."""
    erase(lake, purge_media(lake, shard, run_id), shard)


def purge_media(lake: Lake, shard: Shard, run_id: str) -> frozenset[str]:
    """Write a shard's media anew without deleted pictures, if it has any: the next segment, then the index.

    Returns:
        The media_ids of deleted pictures that the shard had, by its failures.
    """
    for _ in range(_TRIES):
        tombstones = read_tombstones(lake)
        if not tombstones:
            return frozenset()
        index, failures = read_whole_index(lake, shard), read_failures(lake, "media", shard)
        if not any(tombstones.forbid(row) for row in index):
            break
        _rewrite(lake, shard, tombstones, index, failures, run_id)
    else:
        raise RuntimeError(f"{shard.key}: other runs keep writing its media; delete again once they have ended")
    deleted = [row for row in failures if row["kind"] == "deleted"]
    if deleted:
        generations.remove_replaced(lake, shard, index, lake.list(layout.media_folder(shard.dataset)))
    return frozenset(row["media_id"] for row in deleted) & tombstones.media_ids


def deleted_failures(
    shard: Shard, items: Sequence[Item], failures: Sequence[Row], tombstones: Tombstones, run_id: str
) -> dict[tuple[str, str], Row]:
    """The items that need not be fetched to know that they must not come back, as failures by (uri, etag)."""
    before = {key_of(row): row for row in failures if row["kind"] == "deleted"}
    now = tables.now()
    found: dict[tuple[str, str], Row] = {}
    for item in items:
        row = before.get(item.key)
        if row and row["media_id"] in tombstones.media_ids:
            found[item.key] = row
        elif (shard.dataset, item.uri) in tombstones.uris:
            found[item.key] = row or deleted_row(shard, item, None, run_id, now)
    return found


def deleted_row(shard: Shard, item: Item, media_id: str | None, run_id: str, now: datetime) -> Row:
    """The failure that stands in place of a deleted picture's media row."""
    return failure_row(shard, item.key, "deleted", _DELETED, run_id, now, media_id=media_id)


def _complete(lake: Lake, run_id: str, tell: Callable[[str], None]) -> int:
    """Carry out all tombstones in the whole lake."""
    tombstones = read_tombstones(lake)
    for key in sorted({row["shard"] for row in _find(lake, tombstones.media_ids, tombstones.uris)}):
        tell(key)
        purge_media(lake, Shard.parse(key), run_id)
    _tidy(lake)
    return erase(lake, tombstones.media_ids)


def _tidy(lake: Lake) -> None:
    """Delete the replaced segments of shards with deletions, which a death before a deletion's end has left."""
    paths = [path for path in lake.find("failures/stage=media") if path.endswith(".parquet")]
    touched = lake.read_columns(paths, tables.FAILURES, ["shard"], pc.field("kind") == "deleted")
    shards = [Shard.parse(key) for key in touched["shard"].unique().to_pylist()]
    datasets = {shard.dataset for shard in shards}
    segments = {dataset: lake.list(layout.media_folder(dataset)) for dataset in datasets}
    for shard in shards:
        generations.remove_replaced(lake, shard, read_whole_index(lake, shard), segments[shard.dataset])


def _find(lake: Lake, media_ids: frozenset[str], uris: frozenset[tuple[str, str]]) -> list[Row]:
    """The media rows of these pictures and places, in the lake's order."""
    if not media_ids and not uris:
        return []
    paths = [path for path in lake.find("media") if path.endswith(".parquet")]
    columns = ["media_id", "dataset", "shard", "uri"]
    named = pa.array(sorted(media_ids), pa.string()), pa.array(sorted({uri for _, uri in uris}), pa.string())
    doomed = pc.field("media_id").isin(named[0]) | pc.field("uri").isin(named[1])
    rows: list[Row] = lake.read_columns(paths, tables.MEDIA, columns, doomed).to_pylist()
    return [row for row in rows if Tombstones((), media_ids, uris).forbid(row)]


def _rewrite(
    lake: Lake, shard: Shard, tombstones: Tombstones, index: list[Row], failures: list[Row], run_id: str
) -> None:
    """One try to write a shard's media without deleted pictures; nothing happens where another run was faster."""
    now = tables.now()
    kept = [row for row in index if not tombstones.forbid(row)]
    with lake.scratch() as file:
        with SegmentWriter(file) as segment:
            places = dict(copy_pictures(lake, kept, segment))
        if read_whole_index(lake, shard) != index:
            return
        generation = generations.place(lake, shard, file, index, empty=not places)
    name = generations.segment_name(shard, generation)
    rows = [{**row, **places[row["media_id"]], "segment": name} for row in kept if row["media_id"] in places]
    failed = {key_of(row): row for row in failures}
    media_ids = {key_of(row): row["media_id"] for row in index if tombstones.forbid(row)}
    items = read_plan(lake, shard)
    for item in items:
        if item.key in media_ids:
            failed[item.key] = deleted_row(shard, item, media_ids[item.key], run_id, now)
    for row in kept:
        if row["media_id"] in places:
            failed.pop(key_of(row), None)
        else:
            failed[key_of(row)] = failure_row(shard, key_of(row), "unreadable", _LOST, run_id, now, retryable=True)
    commit(lake, shard, rows, [failed[item.key] for item in items if item.key in failed])
