"""`near_duplicates`: pairs of pictures that look alike, over all shards; materialize it when media were added."""

import time

import dagster as dg

from caption_assets.assets.media import MEDIA
from caption_assets.assets.preview import near_preview
from caption_assets.captioning.catalog import open_views, refresh
from caption_assets.duplicates.pairs import NearReport, find_near_duplicates, remove_damaged
from caption_assets.lake import layout
from caption_assets.resources import PipelineResource

NEAR_DUPLICATES = dg.AssetKey("near_duplicates")


def build_near_duplicates_asset() -> dg.AssetsDefinition:
    """The asset; the distance is read from the pipeline file when it runs."""

    @dg.asset(
        key=NEAR_DUPLICATES,
        deps=[dg.AssetDep(MEDIA, partition_mapping=dg.AllPartitionMapping())],
        group_name="ingest",
        kinds={"parquet"},
        description="Pairs of perceptual hashes that differ in few bits; the view of this name shows their pictures.",
    )
    def near_duplicates(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        settings, lake = pipeline.config(), pipeline.lake()
        lake.remove_strays()
        remove_damaged(lake)
        started = time.monotonic()
        with open_views(settings) as views:
            try:
                report = find_near_duplicates(lake, views, settings.near_duplicates, context.log.info)
            except ValueError as error:
                raise dg.Failure(str(error), allow_retries=False) from None
            seconds = time.monotonic() - started
            preview = near_preview(lake, views, report.closest)
        refresh(settings, lake)
        if report.left_out:
            context.log.warning(
                f"{report.left_out} of {sum(report.found)} pairs of hashes were left out, the least close: "
                f"near_duplicates.max_pairs is {settings.near_duplicates.max_pairs}; raise it, or lower the distance"
            )
        return dg.MaterializeResult(
            metadata={
                **_figures(report, seconds),
                "location": lake.url(layout.NEAR_DUPLICATES),
                "closest": dg.MetadataValue.md(preview),
            },
            data_version=dg.DataVersion(report.digest),
        )

    return near_duplicates


def _figures(report: NearReport, seconds: float) -> dict[str, int | float | str | bool]:
    pairs = sum(report.found)
    by_distance = ", ".join(f"{distance}: {count}" for distance, count in enumerate(report.found) if count)
    return {
        "hashes": report.hashes.rows,
        "distinct hashes": len(report.hashes.distinct),
        "hashes of several pictures": len(report.hashes.shared),
        "pictures without a hash": report.hashes.without,
        "pairs": pairs,
        "pairs by distance": by_distance or "none",
        "pairs left out": report.left_out,
        "unchanged": not report.searched,
        "seconds": round(seconds, 2),
        "pairs per second": round(pairs / seconds, 1) if report.searched else 0.0,
    }
