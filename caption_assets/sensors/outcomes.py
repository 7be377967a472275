"""What happened to the runs of this pipeline's jobs: what sensors find among Dagster's runs."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from caption_assets.config.callbacks import EventType
from caption_assets.events.jobs import BEGINNINGS, JobOutcome, outcome_key
from caption_assets.events.looked import Looked
from caption_assets.partitions import SHARDS, partitions_of

_ENDS: dict[DagsterRunStatus, EventType] = {
    DagsterRunStatus.SUCCESS: "job.succeeded",
    DagsterRunStatus.FAILURE: "job.failed",
    DagsterRunStatus.CANCELED: "job.cancelled",
}


def outcomes(context: dg.SensorEvaluationContext, looked: Looked, asked: Collection[EventType]) -> Iterator[JobOutcome]:
    """The runs that ended, and were not looked at; and those that began, where `asked` names such events."""
    statuses = None if BEGINNINGS & set(asked) else list(_ENDS)
    changed = RunsFilter(statuses=statuses, updated_after=looked.jobs_since)
    for record in context.instance.get_run_records(changed, order_by="update_timestamp", ascending=True):
        run = record.dagster_run
        new = [
            (event, moment)
            for event, moment in _events(record, asked)
            if not looked.has(outcome_key(run.run_id, event))
        ]
        if not new or not _is_ours(context, run):
            continue
        partitions = partitions_of(run, lambda: context.instance.get_dynamic_partitions(SHARDS))
        started_at = _moment(record.start_time)
        for event, moment in new:
            failed = _error(context.instance, run.run_id) if event == "job.failed" else None
            started = None if event == "job.created" else started_at
            yield JobOutcome(run.run_id, run.job_name, event, partitions, started, moment, failed)


def _events(record: RunRecord, asked: Collection[EventType]) -> Iterator[tuple[EventType, datetime]]:
    """What happened to a run by now, and when."""
    if "job.created" in asked:
        yield "job.created", record.create_timestamp.replace(tzinfo=UTC)
    started_at = _moment(record.start_time)
    if "job.started" in asked and started_at:
        yield "job.started", started_at
    if end := _ENDS.get(record.dagster_run.status):
        yield end, _moment(record.end_time) or record.update_timestamp.replace(tzinfo=UTC)


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
