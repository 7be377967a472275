"""What a Dagster instance knows of runs: which shards and stages are queued, started, failed or cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, timedelta
from functools import cache
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster import DagsterRunStatus, RunsFilter

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import PipelineConfig
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import tables
from caption_assets.lake.heartbeats import MEDIA, read_beats
from caption_assets.lake.status import RUNS_OF_DAGSTER, KnownRuns
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, partitions_of

_ASSET_JOB = "__ASSET_JOB"
_DAEMON = "QUEUED_RUN_COORDINATOR"
_DAEMON_SILENT_SECONDS = 120.0
"""Four of its heartbeats."""
_LOOK_BACK = timedelta(days=7)
_MOST_ENDED = 1_000
_STATUS = {
    DagsterRunStatus.QUEUED: "queued",
    DagsterRunStatus.NOT_STARTED: "queued",
    DagsterRunStatus.STARTING: "started",
    DagsterRunStatus.STARTED: "started",
    DagsterRunStatus.CANCELING: "started",
    DagsterRunStatus.SUCCESS: "succeeded",
    DagsterRunStatus.FAILURE: "failed",
    DagsterRunStatus.CANCELED: "cancelled",
}
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def known_runs(instance: dg.DagsterInstance, config: PipelineConfig) -> KnownRuns:
    """The runs that are not over, and the latest of those that are."""
    stages = [MEDIA, *bind_perspectives(config)]
    shards = cache(lambda: list(instance.get_dynamic_partitions(SHARDS)))
    open_ = instance.get_run_records(RunsFilter(statuses=[each for each in _STATUS if each not in _ENDED]))
    ended = instance.get_run_records(
        RunsFilter(statuses=_ENDED, created_after=tables.now() - _LOOK_BACK), limit=_MOST_ENDED
    )
    rows = [row for record in [*open_, *ended] for row in _rows(record, stages, shards)]
    waiting = [
        _made_at(record)
        for record in open_
        if _STATUS[record.dagster_run.status] == "queued" and _stages_of(record.dagster_run, stages)
    ]
    beating = {beat.run_id for beat in read_beats(Lake(config.lake)) if beat.state == "running"}
    return KnownRuns(
        pa.Table.from_pylist(rows, RUNS_OF_DAGSTER),
        frozenset(_over(instance, beating)),
        daemon_alive(instance),
        asked=True,
        queued=len(waiting),
        oldest_queued=min(waiting, default=None),
    )


def daemon_alive(instance: dg.DagsterInstance) -> bool:
    """Whether anything starts queued runs: a daemon that was heard of lately, or none is needed."""
    if _DAEMON not in instance.get_required_daemon_types():
        return True
    beat = instance.get_daemon_heartbeats().get(_DAEMON)
    return beat is not None and time.time() - beat.timestamp < _DAEMON_SILENT_SECONDS


def _rows(record: dg.RunRecord, stages: Sequence[str], shards: Callable[[], Sequence[str]]) -> Iterator[dict[str, Any]]:
    run = record.dagster_run
    if not (mine := _stages_of(run, stages)):
        return
    made_at = _made_at(record)
    for shard in partitions_of(run, shards):
        for stage in mine:
            yield {
                "run_id": run.run_id,
                "shard": shard,
                "stage": stage,
                "status": _STATUS[run.status],
                "made_at": made_at,
            }


def _stages_of(run: dg.DagsterRun, stages: Sequence[str]) -> list[str]:
    """The media and perspectives that a run is for."""
    if run.asset_selection is not None:
        chosen = {key.path[-1] for key in run.asset_selection if key.path[0] in {MEDIA, "captions"}}
        return [stage for stage in stages if stage in chosen]
    return list(stages) if run.job_name in {CAPTION_JOB, _ASSET_JOB} else []


def _over(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> list[str]:
    ids = list(run_ids)
    return instance.get_run_ids(RunsFilter(run_ids=ids, statuses=_ENDED)) if ids else []  # type: ignore[return-value]


def _made_at(record: dg.RunRecord) -> float:
    """Seconds since 1970; storages give times in UTC, with or without saying so."""
    return record.create_timestamp.replace(tzinfo=UTC).timestamp()
