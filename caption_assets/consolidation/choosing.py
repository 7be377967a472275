"""Which shards are merged: small ones whose work is done, in the order of their plans, packed into full ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow.compute as pc

from caption_assets.captioning import rows
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.parquet import parquet_file
from caption_assets.lake.store import Lake
from caption_assets.media.stored import Row, key_of, read_failures, read_whole_index
from caption_assets.media.verify import verify_shard
from caption_assets.sources.planner import planned_shards, read_plan

_AT_ONCE = 16
_STORED = ("bytes_sha256", "normalisation", "original_length")

Waits = Literal["young", "in a run", "unfinished", "damaged", "says otherwise", "too few"]
"""Why a small shard is left alone; `says otherwise`: of a picture that another shard of the group has, too."""


@dataclass(frozen=True)
class Finished:
    """A small shard whose work is done."""

    shard: Shard
    items: int
    media: Mapping[str, tuple[Any, ...]]
    """media_id → what is stored of it."""
    outputs: Mapping[tuple[str, str], str]
    """(perspective, media_id) → digest of the current output."""

    def agrees(self, other: Finished) -> bool:
        """Whether both say the same of the pictures that both have."""
        shared = self.media.keys() & other.media.keys()
        outputs = self.outputs.keys() & other.outputs.keys()
        return all(self.media[each] == other.media[each] for each in shared) and all(
            self.outputs[each] == other.outputs[each] for each in outputs
        )


@dataclass
class Choice:
    """The groups of shards to merge, and why the other small ones wait."""

    groups: list[list[Shard]] = field(default_factory=list)
    waiting: Counter[Waits] = field(default_factory=Counter)


def choose(
    lake: Lake,
    dataset: str,
    shard_size: int,
    bound: Mapping[str, BoundPerspective],
    *,
    before: datetime,
    busy: Collection[str] = frozenset(),
    away: Collection[tuple[str, str]] = frozenset(),
) -> Choice:
    """Find what is to be merged.

    Args:
        before: when a shard must have been planned.
        busy: keys of shards in queued or running runs.
        away: (uri, etag) of items that need no captions, as they are gone from the source.
    """
    choice, packer = Choice(), _Packer(shard_size)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        shards = planned_shards(lake, dataset)
        plans = [each for each in pool.map(lambda shard: _plan(lake, shard), shards) if each]
    for shard, items, planned_at in plans:
        if items * 2 >= shard_size:
            continue
        found = _judge(lake, shard, items, planned_at, bound, before, busy, away)
        if not isinstance(found, Finished):
            choice.waiting[found] += 1
        elif not packer.add(found):
            choice.waiting["says otherwise"] += 1
    choice.groups = packer.groups()
    choice.waiting["too few"] += packer.left()
    choice.waiting = +choice.waiting
    return choice


def _plan(lake: Lake, shard: Shard) -> tuple[Shard, int, datetime] | None:
    """A shard's number of items, and when it was planned; None where it has none, or was merged meanwhile."""
    try:
        file = parquet_file(lake.read(layout.plan_file(shard)))
    except FileNotFoundError:
        return None
    items = file.metadata.num_rows
    return (shard, items, pc.max(file.read(["planned_at"])["planned_at"]).as_py()) if items else None


def _judge(
    lake: Lake,
    shard: Shard,
    items: int,
    planned_at: datetime,
    bound: Mapping[str, BoundPerspective],
    before: datetime,
    busy: Collection[str],
    away: Collection[tuple[str, str]],
) -> Finished | Waits:
    if planned_at > before:
        return "young"
    if shard.key in busy:
        return "in a run"
    index, failures = read_whole_index(lake, shard), read_failures(lake, "media", shard)
    settled = {key_of(row) for row in (*index, *failures)}
    outputs = _outputs(lake, shard, bound, {row["media_id"] for row in index if key_of(row) not in away})
    if outputs is None or any(item.key not in settled for item in read_plan(lake, shard)):
        return "unfinished"
    if verify_shard(lake, shard).damaged:
        return "damaged"
    return Finished(shard, items, {row["media_id"]: stored_as(row) for row in index}, outputs)


def stored_as(row: Row) -> tuple[Any, ...]:
    """What two rows of one picture must have in common to share its stored bytes."""
    return tuple(row.get(name) for name in _STORED)


def _outputs(
    lake: Lake, shard: Shard, bound: Mapping[str, BoundPerspective], media_ids: Collection[str]
) -> dict[tuple[str, str], str] | None:
    """Digests of the current outputs; None where a picture has neither caption nor failure."""
    found: dict[tuple[str, str], str] = {}
    for name, each in bound.items():
        stored = rows.read_rows(lake, each, shard, ["output_digest"])
        failed = {row["media_id"] for row in read_failures(lake, name, shard) if row["fingerprint"] == each.fingerprint}
        if any(media_id not in stored and media_id not in failed for media_id in media_ids):
            return None
        found |= {(name, media_id): row["output_digest"] for media_id, row in stored.items()}
    return found


class _Packer:
    """Fills groups in order; one is closed when the next shard does not fit any more."""

    def __init__(self, shard_size: int) -> None:
        self._size = shard_size
        self._closed: list[list[Finished]] = []
        self._open: list[Finished] = []

    def add(self, shard: Finished) -> bool:
        """Take a shard; False where it says other things of a picture than one of its group."""
        if sum(each.items for each in self._open) + shard.items > self._size:
            self._closed.append(self._open)
            self._open = []
        if not all(shard.agrees(each) for each in self._open):
            return False
        self._open.append(shard)
        return True

    def groups(self) -> list[list[Shard]]:
        """The groups that make a shard at least half full."""
        return [[each.shard for each in group] for group in self._full()]

    def left(self) -> int:
        """Shards in no such group."""
        return sum(map(len, [*self._closed, self._open])) - sum(map(len, self._full()))

    def _full(self) -> Sequence[list[Finished]]:
        groups = [*self._closed, self._open]
        return [group for group in groups if len(group) > 1 and sum(each.items for each in group) * 2 >= self._size]
