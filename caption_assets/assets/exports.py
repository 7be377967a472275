"""`exports/<format>`: a dataset's captioned pictures, where training begins."""

import dagster as dg

from caption_assets.assets.captions import caption_key
from caption_assets.assets.common import BACKFILL, plain_failure
from caption_assets.captioning.loaded import Loaded
from caption_assets.exports.formats import FORMATS, Format, export_dataset
from caption_assets.partitions import between_datasets_and_shards, datasets_partitions
from caption_assets.resources import PipelineResource
from caption_assets.sources.planner import planned_shards


def build_export_assets(loaded: Loaded) -> list[dg.AssetsDefinition]:
    """One asset a format, with a partition for every dataset."""
    return [_build(loaded, each) for each in FORMATS]


def _build(loaded: Loaded, format_: Format) -> dg.AssetsDefinition:
    deps = [dg.AssetDep(caption_key(name), partition_mapping=between_datasets_and_shards) for name in loaded.bound]

    @dg.asset(
        key=dg.AssetKey(["exports", format_.name]),
        partitions_def=datasets_partitions(loaded.config),
        deps=deps,
        backfill_policy=BACKFILL,
        group_name="exports",
        description=f"Pictures with their current captions as {format_.name}, one file a shard.",
    )
    def export(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> None:
        lake = pipeline.lake()
        for dataset in context.partition_keys:
            with plain_failure():
                exported = export_dataset(
                    lake,
                    dataset,
                    planned_shards(lake, dataset),
                    loaded.bound,
                    format_,
                    retain=loaded.config.datasets[dataset].retain,
                )
            context.log.info(f"{dataset}: {exported.samples} samples in {len(exported.files)} files")
            context.add_asset_metadata(
                {"samples": exported.samples, "files": len(exported.files), "location": exported.location},
                partition_key=dataset,
            )

    return export
