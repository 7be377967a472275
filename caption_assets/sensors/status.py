"""`status`: shows in the UI, on the asset `catalog`, how far everything is, whenever that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import dagster as dg

from caption_assets.assets.catalog import CATALOG, status_metadata
from caption_assets.counts.views import StillCounting
from caption_assets.dagster_runs import known_runs
from caption_assets.resources import PipelineResource
from caption_assets.status.reading import Status, read_status

STATUS = "status"
_INTERVAL_SECONDS = 300
_COUNTING_SECONDS = 30.0
_CURSOR_VERSION = 1


def build_status_sensor() -> dg.SensorDefinition:
    """The sensor. Its events are observations: what `caption-assets status` says at that moment."""

    @dg.sensor(
        name=STATUS,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS // 60} minutes: shows on `catalog` how far all is, if that changed.",
    )
    def status(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        settings, lake = pipeline.config(), pipeline.lake()
        try:
            found = read_status(settings, known_runs(context.instance, settings), seconds=_COUNTING_SECONDS)
        except StillCounting as progress:
            return dg.SensorResult(skip_reason=f"{progress}; the next tick goes on", cursor=context.cursor)
        cursor = json.dumps({"version": _CURSOR_VERSION, "told": _digest(found)})
        line = ", ".join(f"{count:,} {what}" for what, count in _sums(found).items())
        if cursor == context.cursor:
            return dg.SensorResult(skip_reason=f"as before: {line}", cursor=cursor)
        told = dg.AssetObservation(CATALOG, metadata=status_metadata(lake, found))
        return dg.SensorResult(asset_events=[told], cursor=cursor, skip_reason=line)

    return status


def _sums(found: Status) -> Mapping[str, int]:
    """What is told in a line: the numbers of pictures, all stages together."""
    return {what: sum(getattr(each, what) for each in found.totals) for what in ("done", "failed", "missing", "stale")}


def _digest(found: Status) -> str:
    """What the table shows, in brief: rates and times to go change at each look."""
    shown = [[each.dataset, each.perspective, each.total, each.states, each.failure_kinds] for each in found.totals]
    shown.append([[each.done, each.failed, each.missing, each.stale] for each in found.totals])
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
