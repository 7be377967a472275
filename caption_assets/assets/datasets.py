"""`datasets`: plans what is new in a source, and registers its shards as partitions."""

import dagster as dg

from caption_assets.assets.common import BACKFILL
from caption_assets.captioning.catalog import refresh
from caption_assets.config import PipelineConfig
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
    def datasets(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> None:
        settings, lake = pipeline.config(), pipeline.lake()
        for name in context.partition_keys:
            planned = plan_dataset(lake, name, open_source(settings, name), settings.datasets[name].shard_size)
            registered = register(context.instance, planned.shards)
            context.log.info(
                f"{name}: {planned.new_items} new items in {len(planned.new_shards)} new shards; "
                f"{len(planned.shards)} shards in all, {len(registered)} newly registered"
            )
            context.add_asset_metadata(
                {
                    "new_items": planned.new_items,
                    "new_shards": [shard.key for shard in planned.new_shards],
                    "shards": len(planned.shards),
                },
                partition_key=name,
            )
        refresh(settings, lake)

    return datasets
