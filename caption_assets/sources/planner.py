"""The planner: cuts what is new in a dataset into shards, append-only.

New items are those whose (uri, etag) no plan has. A shard is claimed by creating its plan file where none is; a planner
that finds its number taken reads what the other one planned and takes that out of its own. So two planners at once
neither lose nor double an item, and planning again with nothing new does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import give_up_taken, standing_ledger
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.sources.base import CompletesItems, GivesOnce, Item, Source
from caption_assets.sources.identities import ABSENT, Ids, identities
from caption_assets.sources.kinds import open_source as open_source
from caption_assets.sources.known import Known, keys_of, plans_from

_AT_ONCE = 1000
"""Items whose identities are looked up together."""


@dataclass(frozen=True)
class Planned:
    """What planning a dataset did: its shards by then, those made now, and the number of new items."""

    shards: list[Shard]
    new_shards: list[Shard]
    new_items: int
    notes: list[str] = field(default_factory=list)
    """What the source has to say, in lines."""


def planned_shards(lake: Lake, dataset: str) -> list[Shard]:
    """The shards of a dataset, in the order they were planned: without those merged into others, or being made so."""
    while True:
        ledger = standing_ledger(lake, dataset)
        shards = [shard for shard in plans_from(lake, dataset, 0) if shard not in ledger.hidden]
        if not ledger.changed(lake):  # else a merge began or ended between the two looks
            return shards


def planned_datasets(lake: Lake) -> list[str]:
    """The datasets that have a plan, those that the pipeline file no longer names included."""
    folders = [name for name in lake.list("shards") if name.startswith("dataset=")]
    datasets = (name.removeprefix("dataset=") for name in folders)
    return [name for name in datasets if planned_shards(lake, name)]


class Planner:
    """Plans items of one dataset as they come.

    Args:
        known: what is planned, as far as this machine knows.
        source: completes items, if it is one that does.
        size: items of a full shard.
    """

    def __init__(self, lake: Lake, dataset: str, known: Known, source: object, size: int) -> None:
        self._lake, self._dataset, self._known, self._size = lake, dataset, known, size
        self._source = source
        self._held: dict[tuple[int, int], Item] = {}
        self.shards: list[Shard] = []
        """Those that were planned, in order."""
        self.items = 0
        """How many items they have."""

    @property
    def held(self) -> list[Item]:
        """New items that no shard has yet."""
        return list(self._held.values())

    def offer(self, items: Sequence[Item]) -> int:
        """Hold those items that are new, and plan full shards of them. Returns how many were new."""
        return self.offer_known(items, identities(item.key for item in items))

    def offer_known(self, items: Sequence[Item], ids: Ids) -> int:
        """`offer` of items whose identities are known."""
        before = len(self._held)
        for place in np.flatnonzero(self._known.find(ids) == ABSENT).tolist():
            key = (int(ids[0, place]), int(ids[1, place]))
            self._held[key] = items[place]  # as it is now: a sidecar may have come
        new = len(self._held) - before
        while len(self._held) >= self._size:
            self._plan()
        return new

    def offer_all(self, items: Iterable[Item]) -> None:
        """`offer` of any number of items."""
        for some in _chunks(items, _AT_ONCE):
            self.offer(some)

    def close(self, *, rest: bool = True) -> None:
        """Plan what is held, also as a shard that is not full; without `rest` it stays held."""
        while rest and self._held:
            self._plan()
        self._known.flush()

    def _plan(self) -> None:
        """Plan the items that were held first. Where another planner was faster, its items are held no longer."""
        keys = list(islice(self._held, self._size))
        chunk = [self._held[key] for key in keys]
        shard = Shard(self._dataset, self._known.next)
        if isinstance(self._source, CompletesItems):
            chunk = self._source.complete(chunk)
        if not self._lake.create(layout.plan_file(shard), plan_bytes(shard, chunk)):
            self._known.catch_up()
            held = np.array([*self._held], np.uint64).reshape(-1, 2).T
            planned = set(keys_of(held[:, self._known.find(held) != ABSENT]))
            self._held = {key: item for key, item in self._held.items() if key not in planned}
            return
        self._known.add(shard, np.array(keys, np.uint64).T)
        for key in keys:
            del self._held[key]
        self.shards.append(shard)
        self.items += len(chunk)


def plan_dataset(lake: Lake, dataset: str, source: Source, shard_size: int) -> Planned:
    """Plan everything that is new in a dataset.

    Raises:
        FileNotFoundError: the source itself is gone.
    """
    known = Known(lake, dataset)
    known.catch_up()
    planner = Planner(lake, dataset, known, source, shard_size)
    planner.offer_all(source.scan())
    notes = plan_rest(planner, source)
    give_up_taken(lake, dataset)
    return Planned(planned_shards(lake, dataset), planner.shards, planner.items, notes)


def plan_rest(planner: Planner, source: Source) -> list[str]:
    """Plan what is held after a whole scan, or tell the source what stays held; returns what it has to say."""
    if not isinstance(source, GivesOnce):
        planner.close()
        return []
    planner.close(rest=source.closes(planner.held))
    return source.planned(planner.held)


def read_plan(lake: Lake, shard: Shard) -> list[Item]:
    """The items of a shard. Raises FileNotFoundError when it was never planned."""
    return [
        Item(row["uri"], row["etag"], row["size"], row["modified"], json.loads(row["source"]))
        for row in lake.read_table(layout.plan_file(shard)).to_pylist()
    ]


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def plan_bytes(shard: Shard, items: Sequence[Item]) -> bytes:
    """The plan file of a shard."""
    planned_at = tables.now()
    table = tables.table(
        [
            {
                "dataset": shard.dataset,
                "shard": shard.key,
                "uri": item.uri,
                "etag": item.etag,
                "size": item.size,
                "modified": item.modified,
                "source": json.dumps(item.source, ensure_ascii=False, sort_keys=True),
                "planned_at": planned_at,
            }
            for item in items
        ],
        tables.PLAN,
    )
    return table_bytes(table)
