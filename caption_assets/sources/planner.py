"""The planner: cuts what is new in a dataset into shards, append-only.

New items are the scan minus all planned (uri, etag). A shard is claimed by creating its plan file where none is; a
planner that finds its number taken reads what the other one planned and starts over. So two planners at once neither
lose nor double an item, and planning again with nothing new does nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.sources.base import CompletesItems, Item, Source
from caption_assets.sources.kinds import open_source as open_source


@dataclass(frozen=True)
class Planned:
    """What planning a dataset did: its shards by then, those made now, and the number of new items."""

    shards: list[Shard]
    new_shards: list[Shard]
    new_items: int


def planned_shards(lake: Lake, dataset: str) -> list[Shard]:
    """The shards of a dataset, in the order they were planned: without those merged into others, or being made so."""
    while True:
        ledger = read_ledger(lake, dataset)
        shards = [shard for shard in taken_shards(lake, dataset) if shard not in ledger.hidden]
        if not ledger.changed(lake):  # else a merge began or ended between the two looks
            return shards


def taken_shards(lake: Lake, dataset: str) -> list[Shard]:
    """All shards of a dataset that have a plan file, whether anybody is to see them or not."""
    shards = (_shard_of(name) for name in lake.list(layout.plan_folder(dataset)))
    return sorted(shard for shard in shards if shard is not None and shard.dataset == dataset)


def planned_datasets(lake: Lake) -> list[str]:
    """The datasets that have a plan, those that the pipeline file no longer names included."""
    folders = [name for name in lake.list("shards") if name.startswith("dataset=")]
    datasets = (name.removeprefix("dataset=") for name in folders)
    return [name for name in datasets if planned_shards(lake, name)]


def plan_dataset(lake: Lake, dataset: str, source: Source, shard_size: int) -> Planned:
    """Plan everything that is new in a dataset.

    Raises:
        FileNotFoundError: the source itself is gone.
    """
    new_shards: list[Shard] = []
    new_items = 0
    while True:
        known, shards = _planned_identities(lake, dataset)
        number = shards[-1].number + 1 if shards else 0
        fresh = _unknown(source.scan(), known)
        lost = False
        for chunk in _chunks(fresh, shard_size):
            shard = Shard(dataset, number)
            if isinstance(source, CompletesItems):
                chunk = source.complete(chunk)
            if not lake.create(layout.plan_file(shard), table_bytes(_plan_table(shard, chunk))):
                lost = True  # another planner took this number: its items are now known
                break
            new_shards.append(shard)
            new_items += len(chunk)
            number += 1
        if not lost:
            return Planned(planned_shards(lake, dataset), new_shards, new_items)


def read_plan(lake: Lake, shard: Shard) -> list[Item]:
    """The items of a shard. Raises FileNotFoundError when it was never planned."""
    return [
        Item(row["uri"], row["etag"], row["size"], row["modified"], json.loads(row["source"]))
        for row in lake.read_table(layout.plan_file(shard)).to_pylist()
    ]


def _planned_identities(lake: Lake, dataset: str) -> tuple[set[bytes], list[Shard]]:
    while True:
        shards, known = taken_shards(lake, dataset), set[bytes]()
        try:
            for shard in shards:
                table = lake.read_table(layout.plan_file(shard), ["uri", "etag"])
                known.update(map(identity_of, table["uri"].to_pylist(), table["etag"].to_pylist()))
        except FileNotFoundError:  # merged meanwhile: its successor has its items
            continue
        return known, shards


def _shard_of(name: str) -> Shard | None:
    """The shard of a plan file; None for what others put beside."""
    try:
        return Shard.parse(name.removesuffix(".parquet")) if name.endswith(".parquet") else None
    except ValueError:
        return None


def identity_of(uri: str, etag: str) -> bytes:
    """16 bytes for (uri, etag): a million whole ones would take more memory than a run may."""
    return hashlib.blake2b(f"{len(uri)}:{uri}{etag}".encode(), digest_size=16).digest()


def _unknown(items: Iterable[Item], known: set[bytes]) -> Iterator[Item]:
    """Items not in `known`, each once; they are known from then on."""
    for item in items:
        identity = identity_of(item.uri, item.etag)
        if identity not in known:
            known.add(identity)
            yield item


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _plan_table(shard: Shard, items: list[Item]) -> pa.Table:
    planned_at = tables.now()
    return tables.table(
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
