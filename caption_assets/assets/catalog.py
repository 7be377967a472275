"""`catalog`: DuckDB views over the lake. Every run refreshes it at its end; this asset does so on demand."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from caption_assets.assets.captions import caption_key
from caption_assets.captioning.catalog import refresh
from caption_assets.captioning.loaded import Loaded
from caption_assets.dagster_runs import known_runs
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.resources import PipelineResource
from caption_assets.status.reading import Status, Total, read_status

CATALOG = dg.AssetKey("catalog")


def build_catalog_asset(loaded: Loaded) -> dg.AssetsDefinition:
    """The asset, below all captions."""

    @dg.asset(
        key=CATALOG,
        deps=[dg.AssetDep(caption_key(name), partition_mapping=dg.AllPartitionMapping()) for name in loaded.bound],
        group_name="exports",
        kinds={"duckdb"},
        description="catalog.duckdb: views over the lake. Runs refresh it; materialized, it also tells how far all is.",
    )
    def catalog(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> None:
        settings, lake = pipeline.config(), pipeline.lake()
        refresh(settings, lake)
        status = read_status(settings, known_runs(context.instance, settings))
        context.add_asset_metadata(status_metadata(lake, status))

    return catalog


def status_metadata(lake: Lake, status: Status) -> Mapping[str, Any]:
    """Where the catalog is, and the table of `caption-assets status`."""
    return {"location": lake.url(layout.CATALOG), "status": dg.MetadataValue.table(_rows(status.totals))}


def _rows(totals: Sequence[Total]) -> list[dg.TableRecord]:
    """What `caption-assets status` shows."""
    return [
        dg.TableRecord(
            {
                "dataset": each.dataset,
                "perspective": each.perspective,
                "pictures": each.total,
                "done": each.done,
                "failed": each.failed,
                "missing": each.missing,
                "stale": each.stale,
                "failure kinds": ", ".join(f"{kind}: {count}" for kind, count in each.failure_kinds.items()),
                "shards": ", ".join(f"{count} {state}" for state, count in each.states.items()),
            }
        )
        for each in totals
    ]
