"""Alerts in the UI: `arrivals/<dataset>` with a freshness policy, and asset checks that show what is wrong now.

Neither is part of a job. The sensor `alerts` reports them as things change; the checks can be executed by hand, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from caption_assets.assets.catalog import CATALOG
from caption_assets.config import PipelineConfig
from caption_assets.config.alerts import Alerts
from caption_assets.config.callbacks import AlertType
from caption_assets.dagster_runs import known_runs
from caption_assets.events.alerts import AlertWatch
from caption_assets.events.conditions import Condition
from caption_assets.lake import tables
from caption_assets.resources import PipelineResource

_NAMES: dict[AlertType, str] = {
    "alert.arrivals": "arrivals",
    "alert.failures": "failure_share",
    "alert.breaker": "breaker",
    "alert.queue": "queue_age",
}


def arrivals_key(dataset: str) -> dg.AssetKey:
    """The asset that stands for what arrives in a dataset."""
    return dg.AssetKey(["arrivals", dataset])


def build_arrival_specs(config: PipelineConfig) -> list[dg.AssetSpec]:
    """An asset that nothing here makes for every dataset that has to deliver."""
    arrivals = config.alerts.arrivals if config.alerts else {}
    return [
        dg.AssetSpec(
            arrivals_key(dataset),
            group_name="ingest",
            description=f"New items of {dataset}, at least every {expected.within_hours:g} hours.",
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=expected.within_hours)),
        )
        for dataset, expected in sorted(arrivals.items())
    ]


def build_alert_checks(config: PipelineConfig) -> list[dg.AssetChecksDefinition]:
    """The checks, where the pipeline file has limits."""
    specs = check_specs(config)
    if not specs:
        return []

    @dg.multi_asset_check(name="alerts", specs=specs, can_subset=True)
    def alerts(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
        settings, lake = pipeline.config(), pipeline.lake()
        watch = AlertWatch(settings, lake, tables.now, context.log.warning)
        found = check_states(settings, watch.look(known_runs(context.instance, settings)).conditions)
        for key, conditions in found.items():
            if key in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    asset_key=key.asset_key,
                    check_name=key.name,
                    passed=not conditions,
                    severity=dg.AssetCheckSeverity.WARN,
                    **told(conditions),
                )

    return [alerts]


def check_specs(config: PipelineConfig) -> list[dg.AssetCheckSpec]:
    """A check for each limit: of arrivals at the dataset's asset, all others at `catalog`."""
    alerts = config.alerts or Alerts(breaker=False)
    specs = [
        dg.AssetCheckSpec(
            "arrivals", asset=arrivals_key(name), description=f"Something new every {each.within_hours:g} hours."
        )
        for name, each in sorted(alerts.arrivals.items())
    ]
    if alerts.failure_share is not None:
        share = f"In no dataset more than {alerts.failure_share:.1%} of the pictures have failed."
        specs.append(dg.AssetCheckSpec("failure_share", asset=CATALOG, description=share))
    if alerts.breaker:
        stopped = "No run stopped early for its failures and left its shards unfinished."
        specs.append(dg.AssetCheckSpec("breaker", asset=CATALOG, description=stopped))
    if alerts.queue_minutes is not None:
        waits = f"No run waits for more than {alerts.queue_minutes:g} minutes."
        specs.append(dg.AssetCheckSpec("queue_age", asset=CATALOG, description=waits))
    return specs


def check_states(config: PipelineConfig, conditions: Sequence[Condition]) -> Mapping[dg.AssetCheckKey, list[Condition]]:
    """What is wrong by each check."""
    found: dict[dg.AssetCheckKey, list[Condition]] = {spec.key: [] for spec in check_specs(config)}
    for each in conditions:
        asset = arrivals_key(each.dataset or "") if each.alert == "alert.arrivals" else CATALOG
        found[dg.AssetCheckKey(asset, _NAMES[each.alert])].append(each)
    return found


def told(conditions: Sequence[Condition]) -> dict[str, Any]:
    """What a check says of its conditions."""
    description = "\n".join(each.summary for each in conditions) or "within the limit"
    return {"description": description, "metadata": {"beyond the limit": len(conditions)}}
