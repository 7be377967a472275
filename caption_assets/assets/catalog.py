"""`catalog`: DuckDB views over the lake. Every run refreshes it at its end; this asset does so on demand."""

import dagster as dg

from caption_assets.assets.captions import caption_key
from caption_assets.captioning.catalog import refresh
from caption_assets.captioning.loaded import Loaded
from caption_assets.lake import layout
from caption_assets.resources import PipelineResource


def build_catalog_asset(loaded: Loaded) -> dg.AssetsDefinition:
    """The asset, below all captions."""

    @dg.asset(
        deps=[dg.AssetDep(caption_key(name), partition_mapping=dg.AllPartitionMapping()) for name in loaded.bound],
        group_name="exports",
        kinds={"duckdb"},
        description="catalog.duckdb: views over the lake. Every run refreshes it; materialize it only to repair.",
    )
    def catalog(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> None:
        lake = pipeline.lake()
        refresh(pipeline.config(), lake)
        context.add_asset_metadata({"location": lake.url(layout.CATALOG)})

    return catalog
