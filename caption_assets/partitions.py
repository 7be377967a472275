"""Partitions: datasets by name, media and captions by shard, and how the two depend on each other.

A dataset's shards are registered as they are planned. Between the two kinds of partition every mapping is explicit:
names and shards are different keys, which Dagster's inferred identity mapping would not see. Dagster only supports its
own mapping classes in the UI and the daemon; of these, "all" is the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard

SHARDS = "shards"
_ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

shards_partitions = dg.DynamicPartitionsDefinition(name=SHARDS)
between_datasets_and_shards = dg.AllPartitionMapping()
within_shard = dg.IdentityPartitionMapping()


def datasets_partitions(config: PipelineConfig) -> dg.StaticPartitionsDefinition:
    """One partition a dataset of the pipeline file."""
    return dg.StaticPartitionsDefinition(sorted(config.datasets))


def unregistered(instance: dg.DagsterInstance, shards: Iterable[Shard]) -> list[str]:
    """Keys of planned shards that Dagster does not know yet, in order."""
    known = set(instance.get_dynamic_partitions(SHARDS))
    return [shard.key for shard in sorted(shards) if shard.key not in known]


def register(instance: dg.DagsterInstance, shards: Iterable[Shard]) -> list[str]:
    """Make planned shards partitions; returns the keys that were new."""
    new = unregistered(instance, shards)
    if new:
        instance.add_dynamic_partitions(SHARDS, new)
    return new


def forget(instance: dg.DagsterInstance, shards: Iterable[Shard]) -> list[str]:
    """Let shards be partitions no longer; returns the keys that were. Their events stay in the log."""
    known = set(instance.get_dynamic_partitions(SHARDS))
    gone = [shard.key for shard in shards if shard.key in known]
    for key in gone:
        instance.delete_dynamic_partition(SHARDS, key)
    return gone


def busy_shards(instance: dg.DagsterInstance, *, but: str) -> set[str]:
    """The keys of the shards that queued or running runs are for. `but`: the run that asks."""
    runs = instance.get_runs(RunsFilter(statuses=[each for each in DagsterRunStatus if each not in _ENDED]))
    shards = cache(lambda: list(instance.get_dynamic_partitions(SHARDS)))
    return {key for run in runs if run.run_id != but for key in partitions_of(run, shards)}


def partitions_of(run: dg.DagsterRun, shards: Callable[[], Sequence[str]]) -> Sequence[str]:
    """The partitions of a run; a range follows the order in which shards were registered."""
    if key := run.tags.get("dagster/partition"):
        return [key]
    first = run.tags.get("dagster/asset_partition_range_start")
    last = run.tags.get("dagster/asset_partition_range_end")
    if first is None or last is None:
        return []
    known = shards()
    if first in known and last in known:
        return known[known.index(first) : known.index(last) + 1]
    return [first, last]  # a range of datasets, or of shards that are gone
