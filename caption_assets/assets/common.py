"""What the assets share: how ranges are run, and the shards a run is for."""

from __future__ import annotations

import dagster as dg

from caption_assets.lake.layout import Shard

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
"""Up to this many shards share a run, and so one load of the model."""


def shards_of(context: dg.AssetExecutionContext) -> list[Shard]:
    """The shards of a run. Raises Failure for a key that is no shard's."""
    try:
        return [Shard.parse(key) for key in context.partition_keys]
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
