"""`lost_runs`: a run that died with its server is ended and tried again; one that lives is let alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test

from caption_assets.captioning.catalog import open_views
from caption_assets.demo.scenes import write_scenes
from caption_assets.lake.heartbeats import Beat, read_beats
from caption_assets.lake.layout import heartbeat_file
from caption_assets.lake.store import Lake
from caption_assets.sensors import lost_runs
from caption_assets_tests import invariants
from caption_assets_tests.sensors.changing import Changing, why_not
from caption_assets_tests.soak.world import DATASET, wait_until, world


@pytest.fixture
def changing(tmp_path: Path, pictures: Path) -> Changing:
    return Changing(tmp_path, pictures)


def started(changing: Changing, folder: Path, **tags: str) -> str:
    """A run whose server is gone: nobody listens at its socket."""
    place = json.dumps({"host": "localhost", "socket": str(folder / "gone")})
    run = create_run_for_test(changing.instance, "caption_job", tags={GRPC_INFO_TAG: place} | tags)
    changing.instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, "caption_job"), run.run_id
    )
    return run.run_id


def beat(changing: Changing, run_id: str, ago: float, state: Any = "running") -> None:
    """What a worker said last."""
    now = time.time()
    told = Beat(run_id, "media", "local-1", [{"stage": "media", "fingerprint": None}], now - ago, now - ago, 3.0, state)
    Lake(changing.pipeline.config.lake).write(heartbeat_file(f"{run_id}-{ago}"), told.content())


def status(changing: Changing, run_id: str) -> DagsterRunStatus:
    run = changing.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_silent_run_whose_server_is_gone_has_failed(changing: Changing, tmp_path: Path) -> None:
    run_id = started(changing, tmp_path)
    beat(changing, run_id, 500)
    assert why_not(changing.tick("lost_runs")) == "1 of 1 runs were lost, and count as failed now"
    assert status(changing, run_id) == DagsterRunStatus.FAILURE
    assert why_not(changing.tick("lost_runs")) == "0 runs under way, none of them lost"


@pytest.mark.parametrize("told", [[10.0], [500.0, 10.0], [lost_runs._SILENT_SECONDS - 10], []])
def test_a_run_that_may_live_is_let_alone(changing: Changing, tmp_path: Path, told: list[float]) -> None:
    run_id = started(changing, tmp_path)
    for ago in told:
        beat(changing, run_id, ago)
    beat(changing, "another", 10**4)
    assert why_not(changing.tick("lost_runs")) == "1 runs under way, none of them lost"
    assert status(changing, run_id) == DagsterRunStatus.STARTED


def test_one_that_never_told_anything_is_given_more_time(
    changing: Changing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = started(changing, tmp_path)
    beat(changing, run_id, 500, "failed")
    assert why_not(changing.tick("lost_runs")) == "1 runs under way, none of them lost"
    now = time.time() + lost_runs._NEVER_TOLD_SECONDS + 5
    monkeypatch.setattr(time, "time", lambda: now)
    assert why_not(changing.tick("lost_runs")) == "1 of 1 runs were lost, and count as failed now"
    assert status(changing, run_id) == DagsterRunStatus.FAILURE


def test_runs_of_other_launchers_are_none_of_its_business(changing: Changing) -> None:
    run = create_run_for_test(changing.instance, "caption_job", status=DagsterRunStatus.STARTED)
    beat(changing, run.run_id, 500)
    assert why_not(changing.tick("lost_runs")) == "0 runs under way, none of them lost"
    assert status(changing, run.run_id) == DagsterRunStatus.STARTED


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_died_as_a_whole_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    """Daemon, code server and a run are killed at once, as when a machine loses its power."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    write_scenes(scenes, 8, 1)
    with world(tmp_path) as here:
        here.server.latency = 3.0
        lake = Lake(here.config.lake)
        for file in sorted(scenes.glob("*.png"))[:8]:
            here.upload(file.name, file.read_bytes())
        wait_until("captions are under way", lambda: [each for each in read_beats(lake) if each.looks], 120)
        died = {each.run_id for each in read_beats(lake)}
        here.dagster.kill_daemon()
        here.server.latency = 0.0
        with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
            wait_until(
                "the run counts as failed",
                lambda: all(instance.get_run_by_id(each).status == DagsterRunStatus.FAILURE for each in died),  # type: ignore[union-attr]
                lost_runs._SILENT_SECONDS + 120,
            )
        wait_until("every picture has its captions", lambda: _all_done(here.config, len(here.uploaded)), 300, between=5)
        invariants.hold(here.config, lake, DATASET)
        invariants.complete(here.config, lake)


def _all_done(config: Any, count: int) -> bool:
    with open_views(config) as views:
        current = views.execute("SELECT count(DISTINCT uri) FROM media").fetchone()
        stale = views.execute("SELECT count(*) FROM stale").fetchone()
    return current == (count,) and stale == (0,)
