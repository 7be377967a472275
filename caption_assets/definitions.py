"""The one place where everything meets: `defs` is what Dagster loads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from caption_assets.assets.alerts import build_alert_checks, build_arrival_specs
from caption_assets.assets.captions import build_caption_assets
from caption_assets.assets.catalog import build_catalog_asset
from caption_assets.assets.datasets import build_datasets_asset
from caption_assets.assets.exports import build_export_assets
from caption_assets.assets.media import build_media_asset
from caption_assets.assets.near_duplicates import build_near_duplicates_asset
from caption_assets.captioning.loaded import load
from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.jobs import build_jobs
from caption_assets.k8s_tags import EXECUTOR_VARIABLE
from caption_assets.resources import PipelineResource, VllmResource
from caption_assets.schedules.consolidation import build_consolidation_job, build_consolidation_schedule
from caption_assets.schedules.reconciliation import build_reconciliation_job, build_reconciliation_schedule
from caption_assets.sensors.alerts import build_alert_sensors
from caption_assets.sensors.arrivals import build_arrival_sensors
from caption_assets.sensors.code_reload import build_code_reload_sensor
from caption_assets.sensors.lost_runs import build_lost_runs_sensor
from caption_assets.sensors.recaptioning import build_recaptioning_sensor
from caption_assets.sensors.status import build_status_sensor
from caption_assets.sensors.telling import build_telling_sensors

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies, shown once per asset at every load


def build_defs(config: PipelineConfig | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Definitions for a pipeline file.

    Args:
        config: default: what `load_config()` finds.
        resources: replaces `pipeline` or `vllm`.

    Raises:
        ConfigError: the pipeline file, or a perspective it enables, cannot be used.
    """
    loaded = load(config)
    settings = loaded.config
    consolidation, reconciliation = build_consolidation_job(loaded), build_reconciliation_job(loaded)
    return dg.Definitions(
        assets=[
            build_datasets_asset(settings),
            build_media_asset(),
            *build_caption_assets(loaded),
            build_near_duplicates_asset(),
            *build_export_assets(loaded),
            build_catalog_asset(loaded),
            *build_arrival_specs(settings),
        ],
        asset_checks=build_alert_checks(settings),
        jobs=[*build_jobs(loaded), consolidation, reconciliation],
        schedules=[
            build_consolidation_schedule(loaded, consolidation),
            build_reconciliation_schedule(loaded, reconciliation),
        ],
        sensors=[
            *build_arrival_sensors(settings),
            *build_telling_sensors(settings),
            *build_alert_sensors(settings),
            build_code_reload_sensor(loaded),
            build_recaptioning_sensor(loaded),
            build_lost_runs_sensor(),
            build_status_sensor(),
        ],
        executor=_executor(),
        resources={
            "pipeline": PipelineResource(config_file=str(settings.file)),
            "vllm": VllmResource(),
            **(resources or {}),
        },
    )


def _executor() -> dg.ExecutorDefinition:
    """`in_process` (default: no second import, one process to kill), `multiprocess`, or `k8s`: a pod a step."""
    name = os.environ.get(EXECUTOR_VARIABLE, "in_process")
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    if name == "k8s":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    raise ConfigError(f"{EXECUTOR_VARIABLE}={name!r}: use in_process, multiprocess or k8s")


defs = build_defs()
