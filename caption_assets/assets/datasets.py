"""`datasets`: plans what is new in a source, and registers its shards as partitions."""

from collections.abc import Sequence

import dagster as dg

from caption_assets.assets.common import BACKFILL, Events, events_at_end, failure, plain_failure
from caption_assets.captioning.catalog import refresh
from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, LakeFull
from caption_assets.partitions import datasets_partitions, register
from caption_assets.resources import PipelineResource
from caption_assets.sources.planner import open_source, plan_dataset

DATASETS = dg.AssetKey("datasets")


def build_datasets_asset(config: PipelineConfig) -> dg.AssetsDefinition:
    """The asset, with a partition for every dataset of the pipeline file."""

    @dg.asset(
        key=DATASETS,
        partitions_def=datasets_partitions(config),
        backfill_policy=BACKFILL,
        group_name="ingest",
        kinds={"parquet"},
        description="The plan of each dataset: its items, cut into immutable shards.",
    )
    def datasets(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> Events:
        settings, lake = pipeline.config(), pipeline.lake()
        made: list[dg.AssetMaterialization] = []
        failed: dict[str, str] = {}
        for name in context.partition_keys:
            try:
                made.append(_plan(context, settings, lake, name))
            except LakeFull as error:
                failed[name] = str(error)
            except OSError as error:
                failed[name] = f"the source cannot be read: {error}"
            except Exception as error:  # one dataset's bad file must not keep the others waiting
                context.log.error(f"{name}: {error}", exc_info=True)
                failed[name] = f"{type(error).__name__}: {error}"
        yield from events_at_end(context, [DATASETS], made, all_made=not failed)
        try:
            with plain_failure():
                refresh(settings, lake)
        finally:
            if failed:
                raise failure("no plan", failed) from None

    return datasets


def _plan(
    context: dg.AssetExecutionContext, settings: PipelineConfig, lake: Lake, name: str
) -> dg.AssetMaterialization:
    planned = plan_dataset(lake, name, open_source(settings, name), settings.datasets[name].shard_size)
    for note in planned.notes:
        context.log.warning(f"{name}: {note}")
    registered = register(context.instance, planned.shards)
    context.log.info(
        f"{name}: {planned.new_items} new items in {len(planned.new_shards)} new shards; "
        f"{len(planned.shards)} shards in all, {len(registered)} newly registered"
    )
    return dg.AssetMaterialization(
        DATASETS,
        partition=name,
        metadata={
            "new items": planned.new_items,
            "new shards": _span(planned.new_shards),
            "shards": len(planned.shards),
        },
    )


def _span(shards: Sequence[Shard]) -> str:
    """Shards as a person reads them: first and last."""
    if len(shards) < 2:
        return shards[0].key if shards else "none"
    return f"{shards[0].key} … {shards[-1].key}"
