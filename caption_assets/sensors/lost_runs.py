"""`lost_runs`: ends runs whose worker died together with the server that would have told.

Dagster's default launcher starts runs as children of a code server, which notices when one of them dies. When the
whole machine goes, or somebody kills all of it, nobody does: such a run counts as started for ever, keeps its place
among those at once, and nothing tries its shards again. Launchers that look after their workers (Kubernetes') need none
of this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from caption_assets.lake.heartbeats import Beat, read_beats
from caption_assets.resources import PipelineResource

LOST_RUNS = "lost_runs"
_INTERVAL_SECONDS = 30
_SILENT_SECONDS = 120.0
"""Of a worker that has told how far it is; twice what makes it lost in `status`."""
_NEVER_TOLD_SECONDS = 600.0
"""Since the start of a run whose worker is between two pieces of work, or died there."""
_ASK_SECONDS = 5


def build_lost_runs_sensor() -> dg.SensorDefinition:
    """The sensor. A run that it ends is tried again as the instance's `run_retries` says, and by `recaptioning`."""

    @dg.sensor(
        name=LOST_RUNS,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: ends runs whose worker and server died; they are tried again.",
    )
    def lost_runs(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        if context.instance.run_launcher.supports_check_run_worker_health:
            return dg.SkipReason("the instance's run launcher looks after its workers")
        started = [
            record
            for record in context.instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
            if _is_of(record.dagster_run, context) and GRPC_INFO_TAG in record.dagster_run.tags
        ]
        beats = read_beats(pipeline.lake()) if started else []
        lost = list(_lost(started, beats, time.time()))
        for each in lost:
            context.instance.report_run_failed(each.run, each.message)
            context.log.warning(f"{each.run.run_id}: {each.message}")
        if not lost:
            return dg.SkipReason(f"{len(started)} runs under way, none of them lost")
        return dg.SkipReason(f"{len(lost)} of {len(started)} runs were lost, and count as failed now")

    return lost_runs


@dataclass(frozen=True)
class _Lost:
    """A run without a worker."""

    run: dg.DagsterRun
    message: str


def _lost(started: Sequence[dg.RunRecord], beats: Sequence[Beat], now: float) -> Iterator[_Lost]:
    for record in started:
        run = record.dagster_run
        silent = min(
            (now - beat.beat for beat in beats if beat.run_id == run.run_id and beat.state == "running"), default=None
        )
        if silent is not None and silent > _SILENT_SECONDS and not _server_has(run):
            yield _Lost(run, f"its worker has been silent for {silent:.0f} s, and its server does not know it")
        elif silent is None and now - (record.start_time or now) > _NEVER_TOLD_SECONDS and _server_has(run) is None:
            yield _Lost(run, "its server is gone, and no worker tells of it")


def _is_of(run: dg.DagsterRun, context: dg.SensorEvaluationContext) -> bool:
    """Whether a run is of this code location."""
    ours, its = context.code_location_origin, run.remote_job_origin
    return ours is None or its is None or its.location_name == ours.location_name


def _server_has(run: dg.DagsterRun) -> bool | None:
    """Whether the server that started a run has it as a child; None: it does not answer."""
    place: Mapping[str, object] = json.loads(run.tags[GRPC_INFO_TAG])
    try:
        client = DagsterGrpcClient(
            port=place.get("port"),  # type: ignore[arg-type]
            socket=place.get("socket"),  # type: ignore[arg-type]
            host=str(place.get("host") or "localhost"),
            use_ssl=bool(place.get("use_ssl")),
        )
        told = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=_ASK_SECONDS)
    except DagsterUserCodeUnreachableError:
        return None
    return deserialize_value(told, CanCancelExecutionResult).can_cancel
