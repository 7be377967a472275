"""`callbacks`: finds outcomes in the lake and among Dagster's runs, and tells them to the pipeline file's receivers.

What was found and what was told stands in the lake: a tick that dies anywhere is made good by the next one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from caption_assets.config import PipelineConfig
from caption_assets.config_callbacks import EventType
from caption_assets.events.jobs import JobOutcome, outcome_key
from caption_assets.events.looked import Looked
from caption_assets.events.telling import tell_outcomes
from caption_assets.lake import tables
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, partitions_of
from caption_assets.resources import PipelineResource

CALLBACKS = "callbacks"
_INTERVAL_SECONDS = 30
_OUTCOMES: dict[DagsterRunStatus, EventType] = {
    DagsterRunStatus.SUCCESS: "job.succeeded",
    DagsterRunStatus.FAILURE: "job.failed",
    DagsterRunStatus.CANCELED: "job.cancelled",
}


def build_callback_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """The sensor, where the pipeline file names receivers."""
    return [_build()] if config.callbacks else []


def _build() -> dg.SensorDefinition:
    @dg.sensor(
        name=CALLBACKS,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: tells outcomes of shards, datasets and jobs to `callbacks`.",
    )
    def callbacks(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        settings = pipeline.config()
        if not settings.callbacks:
            return dg.SkipReason("the pipeline file names no callbacks any more")
        lines = tell_outcomes(
            settings,
            Lake(settings.lake),
            lambda looked: list(_outcomes(context, looked)),
            tables.now,
            context.log.warning,
        )
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("; ".join(lines))

    return callbacks


def _outcomes(context: dg.SensorEvaluationContext, looked: Looked) -> Iterator[JobOutcome]:
    """The runs of this pipeline's jobs that ended, and were not looked at."""
    ended = RunsFilter(statuses=list(_OUTCOMES), updated_after=looked.jobs_since)
    for record in context.instance.get_run_records(ended, order_by="update_timestamp", ascending=True):
        run = record.dagster_run
        if looked.has(outcome_key(run.run_id, _OUTCOMES[run.status])) or not _is_ours(context, run):
            continue
        failed = run.status is DagsterRunStatus.FAILURE
        yield JobOutcome(
            run.run_id,
            run.job_name,
            _OUTCOMES[run.status],
            partitions_of(run, lambda: context.instance.get_dynamic_partitions(SHARDS)),
            _moment(record.start_time),
            _moment(record.end_time) or record.update_timestamp.replace(tzinfo=UTC),
            _error(context.instance, run.run_id) if failed else None,
        )


def _is_ours(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Whether a run is of a job of this code location; an instance may serve several."""
    origin, own = run.remote_job_origin, context.code_location_origin
    if origin and own and origin.repository_origin.code_location_origin.location_name != own.location_name:
        return False
    return context.repository_def is None or context.repository_def.has_job(run.job_name)


def _error(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """What made a run fail: its first failed step's reason, else its own."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1, ascending=True).records:
            event = record.event_log_entry.dagster_event
            if event is None:
                continue
            if event.is_step_failure:
                told = event.step_failure_data.user_failure_data
                error = event.step_failure_data.error
                reason = told.description if told else None
                return reason or (error.cause.message if error and error.cause else error.message if error else None)
            return event.message
    return None


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
