"""Partitions: datasets by name, media and captions by shard, and how the two depend on each other.

A dataset's shards are registered as they are planned. Between the two kinds of partition every mapping is explicit:
names and shards are different keys, which Dagster's inferred identity mapping would not see. Dagster only supports its
own mapping classes in the UI and the daemon; of these, "all" is the true one.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard

SHARDS = "shards"

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
