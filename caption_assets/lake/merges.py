"""The ledger of merges: which shards were merged into which, and which are only being made.

One file a dataset holds all its merges, under a number that grows; a change is the next number, claimed by
create-if-absent, so that changes follow one another. A merge is first `pending`: its successor is hidden while it is
filled. With `done` it is shown, and the shards that it retires are hidden from then on: this one file is the switch.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_at_once

_VERSION = re.compile(r"(\d{9})\.parquet")
CLAIM = b"caption_assets.merge"
"""Metadata of a successor's plan: the merge whose it is. A planner's plan has none."""

State = Literal["pending", "done", "void"]
"""`void`: its successor's number was taken by the planner, and is the planner's."""


@dataclass(frozen=True)
class Entry:
    """What becomes of one shard."""

    shard: Shard
    successor: Shard
    """The shard that holds its items: the last one, should the first have been merged again."""
    merged: bool
    """Whether the shard was itself made by a merge."""
    merge_id: str
    state: State
    run_id: str
    changed_at: datetime


@dataclass(frozen=True)
class Ledger:
    """All merges of a dataset, as of one version; version 0: there never was one."""

    dataset: str
    version: int = 0
    entries: tuple[Entry, ...] = ()

    @property
    def retired(self) -> dict[Shard, Shard]:
        """Shards that were merged, and where their items are now."""
        return {each.shard: each.successor for each in self.entries if each.state == "done"}

    @cached_property
    def hidden(self) -> frozenset[Shard]:
        """Shards that nobody is to see: those that were merged, and those still being filled."""
        return frozenset(self.retired) | {each.successor for each in self.entries if each.state == "pending"}

    def changed(self, lake: Lake) -> bool:
        """Whether there is a later version by now."""
        return max(_versions(lake, self.dataset), default=0) != self.version

    def pending(self) -> list[Merge]:
        """The merges that were begun."""
        ids = dict.fromkeys(each.merge_id for each in self.entries if each.state == "pending")
        return [self._merge(merge_id) for merge_id in ids]

    def done(self) -> list[Merge]:
        """The merges that are done, their successors as they were then or the last ones."""
        ids = dict.fromkeys(each.merge_id for each in self.entries if each.state == "done")
        return [self._merge(merge_id) for merge_id in ids]

    @property
    def successors(self) -> frozenset[Shard]:
        """Shards that others were merged into."""
        return frozenset(self.retired.values())

    def as_planned(self, live: Sequence[Shard]) -> list[Shard]:
        """The shards that the planner made, whatever was merged since. `live`: those that are shown."""
        before = {each.shard for each in self.entries if each.state == "done" and not each.merged}
        return sorted(before | {shard for shard in live if shard not in self.successors})

    def without(self, void: Collection[Merge]) -> Ledger:
        """The same, with these merges given up."""
        ids = {merge.merge_id for merge in void}
        entries = (replace(each, state="void") if each.merge_id in ids else each for each in self.entries)
        return replace(self, entries=tuple(entries)) if ids else self

    def _merge(self, merge_id: str) -> Merge:
        own = [each for each in self.entries if each.merge_id == merge_id]
        return Merge(merge_id, own[0].successor, tuple(each.shard for each in own), own[0].changed_at)


@dataclass(frozen=True)
class Merge:
    """Shards that are, or are to be, one."""

    merge_id: str
    successor: Shard
    parts: tuple[Shard, ...]
    """In the order of their items in the successor."""
    changed_at: datetime
    """When it was begun, or done."""


@again_at_once
def read_ledger(lake: Lake, dataset: str) -> Ledger:
    """The ledger as it is now."""
    version = max(_versions(lake, dataset), default=0)
    if not version:
        return Ledger(dataset)
    rows = lake.read_table(layout.ledger_file(dataset, version)).to_pylist()
    entries = (
        Entry(
            Shard.parse(row["shard"]),
            Shard.parse(row["successor"]),
            row["merged"],
            row["merge_id"],
            row["state"],
            row["run_id"],
            row["created_at"],
        )
        for row in rows
    )
    return Ledger(dataset, version, tuple(entries))


def standing_ledger(lake: Lake, dataset: str) -> Ledger:
    """The ledger without the merges whose number a planner has: these hide nothing, whether their runs live or not.

    A merge is announced before it claims its successor's plan; a planner that was faster keeps the number.
    """
    ledger = read_ledger(lake, dataset)
    return ledger.without(_taken(lake, ledger))


def give_up_taken(lake: Lake, dataset: str) -> None:
    """Write down what `standing_ledger` finds: the views cannot look into plans."""
    for merge in _taken(lake, read_ledger(lake, dataset)):
        abandon(lake, merge)


def _taken(lake: Lake, ledger: Ledger) -> list[Merge]:
    return [merge for merge in ledger.pending() if owner(lake, merge.successor) not in (None, merge.merge_id)]


def owner(lake: Lake, shard: Shard) -> str | None:
    """The merge that claimed a shard's plan; "": a planner; None: nobody."""
    try:
        schema = lake.read_table(layout.plan_file(shard), ["shard"]).schema
    except FileNotFoundError:
        return None
    mark: bytes = (schema.metadata or {}).get(CLAIM, b"")
    return mark.decode()


def live(lake: Lake, shard: Shard) -> Shard:
    """The shard that holds a shard's items now: itself, where it was not merged."""
    return read_ledger(lake, shard.dataset).retired.get(shard, shard)


def begin(lake: Lake, dataset: str, parts: Sequence[Shard], successor: Shard, run_id: str) -> Merge | None:
    """Announce a merge; None where another one has one of these shards, or the number."""
    merge_id, now = uuid.uuid4().hex[:12], tables.now()

    def change(ledger: Ledger) -> tuple[Entry, ...] | None:
        standing = [each for each in ledger.entries if each.state != "void"]
        if {each.shard for each in standing}.intersection(parts) or successor in {each.successor for each in standing}:
            return None
        made = {each.successor for each in standing}
        new = (Entry(part, successor, part in made, merge_id, "pending", run_id, now) for part in parts)
        return (*ledger.entries, *new)

    return Merge(merge_id, successor, tuple(parts), now) if _change(lake, dataset, change) else None


def finish(lake: Lake, merge: Merge, run_id: str) -> bool:
    """Make the switch; False where the merge is not pending (any more), done by another run perhaps."""
    now, parts = tables.now(), set(merge.parts)

    def change(ledger: Ledger) -> tuple[Entry, ...] | None:
        if not any(each.merge_id == merge.merge_id and each.state == "pending" for each in ledger.entries):
            return None
        return tuple(
            replace(each, state="done", run_id=run_id, changed_at=now)
            if each.merge_id == merge.merge_id
            else replace(each, successor=merge.successor)
            if each.state == "done" and each.successor in parts
            else each
            for each in ledger.entries
        )

    return _change(lake, merge.successor.dataset, change)


def abandon(lake: Lake, merge: Merge) -> None:
    """Forget a merge whose number is the planner's."""

    def change(ledger: Ledger) -> tuple[Entry, ...] | None:
        if not any(each.merge_id == merge.merge_id and each.state == "pending" for each in ledger.entries):
            return None
        return tuple(
            replace(each, state="void") if each.merge_id == merge.merge_id else each for each in ledger.entries
        )

    _change(lake, merge.successor.dataset, change)


def _change(lake: Lake, dataset: str, change: Callable[[Ledger], tuple[Entry, ...] | None]) -> bool:
    """Write the next version; False where `change` finds that there is nothing to change."""
    while True:
        ledger = read_ledger(lake, dataset)
        entries = change(ledger)
        if entries is None:
            return False
        version = ledger.version + 1
        rows = [
            {
                "version": version,
                "dataset": dataset,
                "shard": each.shard.key,
                "successor": each.successor.key,
                "merged": each.merged,
                "merge_id": each.merge_id,
                "state": each.state,
                "run_id": each.run_id,
                "created_at": each.changed_at,
            }
            for each in entries
        ]
        if lake.create(layout.ledger_file(dataset, version), table_bytes(tables.table(rows, tables.MERGES))):
            for old in _versions(lake, dataset):
                if old < ledger.version:  # the one before stays for those who have just listed it
                    lake.remove(layout.ledger_file(dataset, old))
            return True


def _versions(lake: Lake, dataset: str) -> list[int]:
    found = (_VERSION.fullmatch(name) for name in lake.list(layout.ledger_folder(dataset)))
    return [int(match[1]) for match in found if match]
