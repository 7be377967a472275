"""What the assets share: how ranges are run, the catalog's refresh, the shards a run is for."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.config import PipelineConfig
from caption_assets.lake.catalog import Wanted, refresh_catalog
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.perspectives import arrow_type

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
"""Up to this many shards share a run, and so one load of the model."""


def wanted(bound: Mapping[str, BoundPerspective]) -> dict[str, Wanted]:
    """What the catalog needs to know of the perspectives."""
    return {
        name: Wanted(each.fingerprint, each.inputs, arrow_type(each.perspective)) for name, each in bound.items()
    }


def refresh(config: PipelineConfig, lake: Lake) -> None:
    """Bring the catalog up to date with the lake."""
    refresh_catalog(lake, wanted(bind_perspectives(config)))


def shards_of(context: dg.AssetExecutionContext) -> list[Shard]:
    """The shards of a run. Raises Failure for a key that is no shard's."""
    try:
        return [Shard.parse(key) for key in context.partition_keys]
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
