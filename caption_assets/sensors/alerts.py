"""`alerts`: evaluates the pipeline file's `alerts`, reports their checks, and hands incidents to the callbacks.

Incidents stand in the lake. The cursor only says what the UI was told: without it, it is told once more.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from caption_assets.assets.alerts import arrivals_key, check_states, told
from caption_assets.config import PipelineConfig
from caption_assets.dagster_runs import known_runs
from caption_assets.events.alerts import AlertWatch, Evaluation
from caption_assets.events.event import timestamp
from caption_assets.lake import tables
from caption_assets.lake.store import Lake
from caption_assets.resources import PipelineResource

ALERTS = "alerts"
_INTERVAL_SECONDS = 60
_CURSOR_VERSION = 1


def build_alert_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """The sensor, where the pipeline file has `alerts`."""
    return [_build()] if config.alerts else []


def _build() -> dg.SensorDefinition:
    @dg.sensor(
        name=ALERTS,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: compares the lake and the queue with the pipeline file's alerts.",
    )
    def alerts(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        settings = pipeline.config()
        watch = AlertWatch(settings, Lake(settings.lake), tables.now, context.log.warning)
        found = watch.watch(known_runs(context.instance, settings))
        before = _read(context.cursor)
        after: dict[str, Any] = {"version": _CURSOR_VERSION, "checks": {}, "arrived": {}}
        events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
        events.extend(_arrivals(settings, found, before, after))
        events.extend(_checks(settings, found, before, after))
        beyond = len(found.conditions)
        line = f"{beyond} beyond the limits" if beyond else "all within the limits"
        line += f"; {found.raised} incidents raised, {found.resolved} resolved"
        for each in found.conditions:
            context.log.warning(each.summary)
        return dg.SensorResult(
            asset_events=events,
            cursor=json.dumps(after),
            skip_reason="; ".join([line, *(each.summary for each in found.conditions)]),
        )

    return alerts


def _arrivals(
    config: PipelineConfig, found: Evaluation, before: Mapping[str, Any], after: dict[str, Any]
) -> Iterator[dg.AssetMaterialization]:
    """An event for a dataset with something new. None for what is older than expected: it would look new."""
    for dataset, moment in found.arrived.items():
        if moment is None:
            continue
        after["arrived"][dataset] = timestamp(moment)
        limit = config.alerts.arrivals[dataset].within_hours if config.alerts else 0
        if before["arrived"].get(dataset) != timestamp(moment) and _age(moment) < timedelta(hours=limit):
            yield dg.AssetMaterialization(
                arrivals_key(dataset), metadata={"planned": dg.MetadataValue.timestamp(moment)}
            )


def _checks(
    config: PipelineConfig, found: Evaluation, before: Mapping[str, Any], after: dict[str, Any]
) -> Iterator[dg.AssetCheckEvaluation]:
    """An evaluation of each check that would say something else now."""
    for key, conditions in check_states(config, found.conditions).items():
        name, says = key.to_user_string(), "\n".join(sorted(each.summary for each in conditions))
        after["checks"][name] = hashlib.sha256(says.encode()).hexdigest()[:16]
        if before["checks"].get(name) != after["checks"][name]:
            yield dg.AssetCheckEvaluation(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=not conditions,
                severity=dg.AssetCheckSeverity.WARN,
                **told(conditions),
            )


def _age(moment: datetime) -> timedelta:
    return tables.now() - moment


def _read(cursor: str | None) -> Mapping[str, Any]:
    """What the UI was told; nothing with a cursor not ours."""
    try:
        document = json.loads(cursor or "")
        if document["version"] == _CURSOR_VERSION:
            return {"checks": dict(document["checks"]), "arrived": dict(document["arrived"])}
    except (ValueError, KeyError, TypeError):
        pass
    return {"checks": {}, "arrived": {}}
