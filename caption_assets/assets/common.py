"""What the assets share: how ranges are run, the shards a run is for, and the events at an op's end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake, LakeFull

Events = Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
"""Up to this many shards share a run, and so one load of the model."""


def shards_of(context: dg.AssetExecutionContext) -> list[Shard]:
    """The shards of a run. Raises Failure for a key that is no shard's, and for a run without a partition."""
    if not (context.has_partition_key or context.has_partition_key_range):
        raise dg.Failure("choose a shard: this runs for partitions only, and so do its checks", allow_retries=False)
    try:
        return [Shard.parse(key) for key in context.partition_keys]
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def merged_away(lake: Lake, shards: Iterable[Shard]) -> dict[Shard, str]:
    """Those of these shards that were merged into others, and what to say of it."""
    wanted = list(shards)
    retired: dict[Shard, Shard] = {}
    for name in {each.dataset for each in wanted}:
        retired |= read_ledger(lake, name).retired
    return {each: f"it was merged into {retired[each].key}; run that one" for each in wanted if each in retired}


def events_at_end(
    context: dg.AssetExecutionContext,
    keys: Iterable[dg.AssetKey],
    made: Sequence[dg.AssetMaterialization],
    *,
    all_made: bool,
) -> Events:
    """The events of an op that other ops of its run wait for.

    Those start only after a MaterializeResult, and in a range it stands for every partition. So it is yielded when all
    of them were made; else those that were get an event each, and the op has to raise afterwards. An asset's key has to
    stand after those of the assets that it reads.
    """
    if not all_made:
        yield from made
        return
    for each in made:
        context.add_asset_metadata(each.metadata, asset_key=each.asset_key, partition_key=each.partition)
    for key in keys:
        yield dg.MaterializeResult(asset_key=key)


@contextmanager
def plain_failure() -> Iterator[None]:
    """Fail with the message alone where a person has to make room."""
    try:
        yield
    except LakeFull as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def failure(what: str, reasons: dict[str, str]) -> dg.Failure:
    """The failure of an op that finished the rest; `reasons` by partition."""
    told = "\n".join(f"{partition}: {reason}" for partition, reason in reasons.items())
    return dg.Failure(f"{what} for {', '.join(reasons)}\n{told}", allow_retries=False)
