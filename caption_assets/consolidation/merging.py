"""Merges shards into one: fills the successor while it is hidden, makes the switch, and removes what it retires.

1. The merge is announced in the ledger: from here on its successor is hidden.
2. The successor's plan is claimed; a planner that had its number first keeps it.
3. Media, captions and failures are copied: the same bytes and rows under the successor's key.
4. Where a run changed the parts meanwhile, all is copied again.
5. The ledger's next version is the switch.

A run that dies anywhere is made good by the next one, which goes on with what is pending under the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from caption_assets.consolidation.captions import copy_captions, copy_failures, with_shard
from caption_assets.consolidation.choosing import stored_as
from caption_assets.lake import layout
from caption_assets.lake.erasing import caption_files
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import CLAIM, Merge, abandon, begin, finish, owner, read_ledger
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.tombstones import read_tombstones
from caption_assets.media import generations
from caption_assets.media.copying import copy_pictures
from caption_assets.media.deletion import complete_deletions
from caption_assets.media.segment import SegmentWriter
from caption_assets.media.stored import Row, commit, read_failures, read_whole_index
from caption_assets.sources.known import plans_from

_TRIES = 5


class Disturbed(Exception):
    """Runs keep changing the shards; the merge stays pending, and the next run goes on with it."""


@dataclass(frozen=True)
class Merged:
    """A merge that was made now."""

    merge: Merge
    items: int
    pictures: int
    captions: int


def merge_shards(lake: Lake, parts: Sequence[Shard], run_id: str) -> Merged | None:
    """Merge shards of a dataset, in this order; None where another merge has one of them.

    Raises:
        Disturbed: other runs are working on them.
    """
    dataset = parts[0].dataset
    while True:
        ledger = read_ledger(lake, dataset)
        if ledger.hidden.intersection(parts) or any(set(parts) & set(each.parts) for each in ledger.pending()):
            return None
        merge = begin(lake, dataset, parts, _next(lake, dataset, ledger.hidden), run_id)
        if merge and (merged := resume(lake, merge, run_id)):
            return merged


def resume(lake: Lake, merge: Merge, run_id: str) -> Merged | None:
    """Bring a pending merge to its end; None where its number is the planner's by now, or another run was faster.

    Raises:
        Disturbed: other runs are working on its parts.
    """
    if not _claim(lake, merge):
        abandon(lake, merge)
        return None
    for _ in range(_TRIES):
        if not _is_pending(lake, merge):
            return None
        for part in merge.parts:
            complete_deletions(lake, part, run_id)
        before = _state(lake, merge.parts)
        pictures = _copy_media(lake, merge, run_id)
        captions = copy_captions(lake, merge)
        copy_failures(lake, merge)
        complete_deletions(lake, merge.successor, run_id)
        if pictures is None or _state(lake, merge.parts) != before:
            continue
        if not finish(lake, merge, run_id):
            return None
        items = lake.read_table(layout.plan_file(merge.successor), ["uri"]).num_rows
        return Merged(merge, items, pictures, captions)
    raise Disturbed(f"{', '.join(part.key for part in merge.parts)}: other runs keep changing them; merged next time")


def resume_pending(
    lake: Lake, dataset: str, run_id: str, busy: Callable[[], Collection[str]]
) -> tuple[list[Merged], list[str]]:
    """Go on with the merges that earlier runs left; returns those made, and why others wait."""
    made: list[Merged] = []
    waiting: list[str] = []
    for merge in read_ledger(lake, dataset).pending():
        if held := [part.key for part in merge.parts if part.key in busy()]:
            waiting.append(f"{merge.successor.key}: runs are working on {', '.join(held)}")
            continue
        try:
            made += filter(None, [resume(lake, merge, run_id)])
        except Disturbed as error:
            waiting.append(str(error))
    return made, waiting


def _next(lake: Lake, dataset: str, hidden: Collection[Shard]) -> Shard:
    """The first number that nobody has."""
    taken = [*plans_from(lake, dataset, 0), *hidden]
    return Shard(dataset, max((shard.number for shard in taken), default=-1) + 1)


def _claim(lake: Lake, merge: Merge) -> bool:
    """Whether the successor's plan is this merge's: put in place now, or by a run that died."""
    path = layout.plan_file(merge.successor)
    if not lake.exists(path):
        plans = [lake.read_table(layout.plan_file(part)).replace_schema_metadata(None) for part in merge.parts]
        plan = with_shard(pa.concat_tables(plans, promote_options="default"), merge.successor)
        if lake.create(path, table_bytes(plan.replace_schema_metadata({CLAIM: merge.merge_id.encode()}))):
            return True
    return owner(lake, merge.successor) == merge.merge_id


def _copy_media(lake: Lake, merge: Merge, run_id: str) -> int | None:
    """Fill the successor's segment, failures and index; returns its distinct pictures.

    None where a picture is not there as its row says, or was deleted: the parts changed under our eyes.
    """
    successor, tombstones = merge.successor, read_tombstones(lake)
    indexes = [read_whole_index(lake, part) for part in merge.parts]
    rows = [row for index in indexes for row in index]
    if any(map(tombstones.forbid, rows)):
        return None
    first = {row["media_id"]: row for row in reversed(rows)}
    if any(stored_as(row) != stored_as(first[row["media_id"]]) for row in rows):
        return None
    places: dict[str, Row] = {}
    with lake.scratch() as file:
        with SegmentWriter(file) as segment:
            for index in indexes:
                places |= dict(copy_pictures(lake, [row for row in index if row is first[row["media_id"]]], segment))
        if places.keys() != first.keys():
            return None
        generation = generations.place(lake, successor, file, (), empty=not places)  # an earlier try's, if the same
    name = generations.segment_name(successor, generation)
    moved = [
        {**row, **places[row["media_id"]], "dataset": successor.dataset, "shard": successor.key, "segment": name}
        for row in rows
    ]
    failed = [{**row, "shard": successor.key} for part in merge.parts for row in read_failures(lake, "media", part)]
    if not _is_pending(lake, merge):  # another run has made the switch, and what it shows is not to be touched
        return None
    commit(lake, successor, moved, failed)
    return len(first)


def _is_pending(lake: Lake, merge: Merge) -> bool:
    return any(each.merge_id == merge.merge_id for each in read_ledger(lake, merge.successor.dataset).pending())


def _state(lake: Lake, parts: Sequence[Shard]) -> dict[str, bytes]:
    """What tells one state of the shards from another: the files of captions have names of their own."""
    found: dict[str, bytes] = {}
    for part in parts:
        files = [layout.media_index(part), layout.failures_file("media", part), *caption_files(lake, part)]
        for path in files:
            try:
                found[path] = b"" if path.startswith("captions/") else lake.read(path)
            except FileNotFoundError:
                found[path] = b""
    return found
