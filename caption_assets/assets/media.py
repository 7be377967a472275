"""`media`: fetches, decodes and normalises a shard's pictures into a segment and its index."""

import json
import time
from typing import Any

import dagster as dg

from caption_assets import run_tags
from caption_assets.assets.common import BACKFILL, Events, events_at_end, failure, merged_away, plain_failure, shards_of
from caption_assets.assets.datasets import DATASETS
from caption_assets.assets.preview import media_preview
from caption_assets.captioning.catalog import refresh
from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.lake import layout, tables
from caption_assets.lake.heartbeats import MEDIA as STAGE
from caption_assets.lake.heartbeats import Heartbeat
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, LakeFull, table_bytes
from caption_assets.media.shard import MediaReport, build_media
from caption_assets.partitions import between_datasets_and_shards, shards_partitions
from caption_assets.resources import PipelineResource
from caption_assets.sources.planner import open_source

MEDIA = dg.AssetKey("media")
COMPLETE = "complete"
_CHECK = "Every planned item has media or a recorded failure; WARN: some failed. What was deleted is no failure."


class MediaConfig(dg.Config):
    """Launchpad options."""

    force: bool = False
    """Make every picture again."""
    verify: bool = False
    """Read every stored picture again, and make those again that are damaged."""


def build_media_asset() -> dg.AssetsDefinition:
    """The asset; what it does is read from the pipeline file when it runs."""

    spec = dg.AssetSpec(
        MEDIA,
        deps=[dg.AssetDep(DATASETS, partition_mapping=between_datasets_and_shards)],
        group_name="ingest",
        kinds={"parquet"},
        description="Normalised pictures: a WebDataset segment and its index for each shard.",
    )

    @dg.multi_asset(
        name="media",
        specs=[spec],
        check_specs=[dg.AssetCheckSpec(COMPLETE, asset=MEDIA, description=_CHECK)],
        can_subset=True,  # the check is logged shard by shard, not yielded
        partitions_def=shards_partitions,
        backfill_policy=BACKFILL,
    )
    def media(context: dg.AssetExecutionContext, pipeline: PipelineResource, config: MediaConfig) -> Events:
        settings, lake = pipeline.config(), pipeline.lake()
        lake.remove_strays()
        made: list[dg.AssetMaterialization] = []
        failed: dict[str, str] = {}
        shards = shards_of(context)
        beating = Heartbeat(lake, context.run_id, "media", {STAGE: None}, shards, settings.captions.contributor)
        with beating as heartbeat:
            for shard in shards:
                try:
                    made.append(_materialize(context, settings, lake, shard, config, heartbeat))
                except ConfigError as error:
                    failed[shard.key] = str(error)
                except LakeFull as error:
                    failed[shard.key] = str(error)
                    break  # the next shard would find no room either
                except Exception as error:  # one shard's bad file must not keep the others waiting
                    context.log.error(f"{shard.key}: {error}", exc_info=True)
                    failed[shard.key] = f"{type(error).__name__}: {error}"
                else:
                    heartbeat.finished(shard)
            if failed:
                heartbeat.end("failed", failure("no media", failed))
        yield from events_at_end(context, [MEDIA], made, all_made=not failed)
        try:
            with plain_failure():
                refresh(settings, lake)
        finally:
            if failed:
                raise failure("no media", failed) from None

    return media


def _materialize(
    context: dg.AssetExecutionContext,
    settings: PipelineConfig,
    lake: Lake,
    shard: Shard,
    config: MediaConfig,
    heartbeat: Heartbeat,
) -> dg.AssetMaterialization:
    if shard.dataset not in settings.datasets:
        raise ConfigError(
            f"{settings.file}: datasets: there is no dataset {shard.dataset!r}; add it, or leave out its shards"
        )
    if merged := merged_away(lake, [shard]):
        raise ConfigError(merged[shard])
    if not lake.exists(layout.plan_file(shard)):
        raise ConfigError(f"the shard was never planned; materialize `datasets` ({shard.dataset}) first")
    started, started_at = time.monotonic(), tables.now()
    report = build_media(
        lake,
        shard,
        open_source(settings, shard.dataset),
        settings.media,
        context.run_id,
        force=config.force,
        verify=config.verify,
        tell=context.log.info,
        watch=heartbeat.watch,
    )
    seconds = time.monotonic() - started
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(report.failure_kinds.items()))
    context.log.info(
        f"{shard.key}: {report.new} new pictures of {report.planned} planned, {report.failed} failed"
        + (f" ({kinds})" if kinds else "")
        + (f", {report.damaged} damaged" if report.damaged else "")
    )
    _log_check(context, report)
    if report.new or report.failed_now:
        _write_run(context, lake, settings, report, started_at)
    return dg.AssetMaterialization(
        MEDIA,
        partition=shard.key,
        metadata={
            "planned": report.planned,
            "pictures": report.rows,
            "new": report.new,
            "failed": report.failed,
            "failure kinds": kinds or "none",
            **({"damaged": report.damaged} if config.verify else {}),
            "pictures per second": round(report.rate, 1),
            "stored bytes": report.stored_bytes,
            "seconds": round(seconds, 2),
            "preview": dg.MetadataValue.md(media_preview(lake, shard)),
        },
    )


def _log_check(context: dg.AssetExecutionContext, report: MediaReport) -> None:
    if dg.AssetCheckKey(MEDIA, COMPLETE) not in context.selected_asset_check_keys:
        return
    lost = report.planned - report.rows - report.failed
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=MEDIA,
            check_name=COMPLETE,
            passed=not lost and report.failed == report.failure_kinds["deleted"],
            severity=dg.AssetCheckSeverity.ERROR if lost else dg.AssetCheckSeverity.WARN,
            metadata={"planned": report.planned, "pictures": report.rows, "failed": report.failed, "lost": lost},
            partition=report.shard.key,
        )
    )


def _write_run(
    context: dg.AssetExecutionContext, lake: Lake, settings: PipelineConfig, report: MediaReport, started_at: Any
) -> None:
    ended_at = tables.now()
    row = {
        "run_id": context.run_id,
        "step": "media",
        "dataset": report.shard.dataset,
        "shard": report.shard.key,
        "done": report.new,
        "failed": report.failed,
        "failure_kinds": json.dumps(report.failure_kinds, sort_keys=True),
        "already_there": report.rows - report.new,
        "seconds": (ended_at - started_at).total_seconds(),
        "contributor": settings.captions.contributor,
        "cause": context.run.tags.get(run_tags.CAUSE),
        "started_at": started_at,
        "ended_at": ended_at,
    }
    path = layout.run_file(started_at.strftime("%Y-%m-%d"), context.run_id, f"media-{report.shard.key}")
    lake.write(path, table_bytes(tables.table([row], tables.RUNS)))
