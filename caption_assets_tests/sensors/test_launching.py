"""Runs that sensors ask for leave Dagster's queue in the right order: by cause, and datasets in turns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from caption_assets import run_tags
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake.layout import Shard
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import contiguous, run_requests

SETTINGS = Path(__file__).parents[2] / "deploy" / "local" / "dagster.yaml"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the demo's settings."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    with instance_for_test(temp_dir=str(tmp_path), overrides=settings) as made:
        yield made


def enqueue(instance: dg.DagsterInstance, cause: Cause, shards: list[Shard], runs_of: int = 1) -> None:
    """Put into the queue what a sensor asks for."""
    keys = [shard.key for shard in shards]
    for request in run_requests(instance, cause, shards, keys, {}, shards_per_run=runs_of):
        partition = {"dagster/partition": request.partition_key} if request.partition_key else {}
        queue(instance, {**dict(request.tags), **partition})


def queue(instance: dg.DagsterInstance, tags: dict[str, str]) -> DagsterRun:
    """Put one run into the queue."""
    origin = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", 4000), "__repository__")
    run: DagsterRun = create_run_for_test(
        instance,
        CAPTION_JOB,
        status=DagsterRunStatus.QUEUED,
        tags=tags,
        remote_job_origin=origin.get_job_origin(CAPTION_JOB),
    )
    return run


def some(dataset: str, count: int, start: int = 0) -> list[Shard]:
    """Shards of a dataset."""
    return [Shard(dataset, start + number) for number in range(count)]


def take(instance: dg.DagsterInstance, count: int) -> list[str]:
    """The shards that Dagster's daemon launches next, when one run has to end before another one starts."""
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    taken = []
    for _ in range(count):
        settings: ConcurrencyConfig = instance.get_concurrency_config()
        (run, *_) = daemon._get_runs_to_dequeue(instance, settings, fixed_iteration_time=None)
        taken.append(run.tags["dagster/partition"])
        instance.report_run_canceled(run)
    return taken


def test_a_dataset_with_three_runs_overtakes_one_with_a_hundred(instance: dg.DagsterInstance) -> None:
    enqueue(instance, Cause.ARRIVAL, some("big", 100))
    assert take(instance, 10) == [shard.key for shard in some("big", 10)]
    enqueue(instance, Cause.ARRIVAL, some("small", 3))
    taken = take(instance, 7)
    assert sorted(key for key in taken if key.startswith("small")) == [shard.key for shard in some("small", 3)]
    assert all(one.split("-")[0] != other.split("-")[0] for one, other in pairwise(taken)), "they take turns"
    assert taken[-1] == "big-000013", "and the big one goes on where it was"


def test_what_waits_is_not_overtaken_for_ever(instance: dg.DagsterInstance) -> None:
    enqueue(instance, Cause.ARRIVAL, some("big", 5))
    for number in range(5):
        enqueue(instance, Cause.ARRIVAL, some("small", 2, start=2 * number))
        take(instance, 2)
    left = [run.tags["dagster/partition"] for run in instance.get_runs()]
    assert len(left) == 15
    assert len([key for key in take(instance, 5) if key.startswith("big")]) <= 1, "most of it went before"


def test_arrivals_go_before_repairs_before_recaptioning(instance: dg.DagsterInstance) -> None:
    enqueue(instance, Cause.RECAPTIONING, some("a", 2))
    enqueue(instance, Cause.REPAIR, some("b", 2))
    queue(instance, {"dagster/partition": "by hand"})
    enqueue(instance, Cause.ARRIVAL, some("c", 2))
    assert take(instance, 7) == ["c-000000", "c-000001", "by hand", "b-000000", "b-000001", "a-000000", "a-000001"]


def test_a_dataset_leaves_a_slot_to_the_others(instance: dg.DagsterInstance) -> None:
    enqueue(instance, Cause.ARRIVAL, some("big", 10))
    enqueue(instance, Cause.RECAPTIONING, some("small", 1))
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    launched = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), fixed_iteration_time=None)
    assert [run.tags[run_tags.DATASET] for run in launched] == ["big", "big", "big", "small"]


def test_a_range_ends_where_the_dataset_does() -> None:
    shards = [*some("a", 2), *some("b", 2)]
    keys = [shard.key for shard in shards]
    assert contiguous(shards, keys) == [some("a", 2), some("b", 2)]
    assert contiguous(shards, keys, most=1) == [[shard] for shard in shards]
