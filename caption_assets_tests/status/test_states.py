"""The status state by state, as real runs of a real instance make them."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from caption_assets.commands.status_screen import to_do
from caption_assets.config import load_config
from caption_assets.dagster_runs import daemon_alive, known_runs
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout
from caption_assets.lake.heartbeats import LOST_AFTER_SECONDS, Beat, read_beats
from caption_assets.status.reading import Status, read_status
from caption_assets_tests.assets.running import PERSPECTIVES, Outcome, Pipeline, answer, write_config
from caption_assets_tests.support import ScriptedEngine, lent

FIRST, SECOND = "demo-000000", "demo-000001"


class Engine:
    """Answers until it is told to hold or to fail."""

    def __init__(self) -> None:
        self.hold_after: int | None = None
        self.fails = False
        self.held, self.go_on = threading.Event(), threading.Event()
        self._lock, self._seen = threading.Lock(), 0

    def __call__(self, request: EngineRequest) -> EngineReply | EngineFailure:
        with self._lock:
            self._seen += 1
            held = self.hold_after is not None and self._seen > self.hold_after
        if held:
            self.held.set()
            assert self.go_on.wait(60)
        return EngineFailure("engine", "on purpose", retryable=True) if self.fails else answer(request)


class World:
    """Two shards of two pictures, an instance on disk, and an engine that obeys."""

    def __init__(self, home: Path, pictures: Path, instance: dg.DagsterInstance) -> None:
        (home / "demo").mkdir()
        for file in sorted(pictures.glob("scene*"))[:4]:
            shutil.copy(file, home / "demo")
        self.engine = Engine()
        captions = {"max_failure_share": 0.4, "breaker_after": 3, "max_attempts": 9}
        config = write_config(home, {"demo": {"path": str(home / "demo"), "shard_size": 2}}, captions=captions)
        self.pipeline = Pipeline.of(config, lent(ScriptedEngine(self.engine)))
        self.pipeline.instance = instance

    def status(self) -> Status:
        """What the command line would show."""
        config = self.pipeline.config
        return read_status(config, known_runs(self.pipeline.instance, config), shards=100)

    def rows(self, shard: str) -> dict[str, dict[str, Any]]:
        """The rows of a shard's stages."""
        return {row["perspective"]: row for row in self.status().shards if row["shard"] == shard}

    def states(self, shard: str) -> dict[str, str]:
        """The states of a shard's stages."""
        return {stage: row["state"] for stage, row in self.rows(shard).items()}

    def queued(self, shard: str, **options: Any) -> dg.DagsterRun:
        """A run that waits."""
        job = self.pipeline.defs.resolve_job_def(CAPTION_JOB)
        return self.pipeline.instance.create_run_for_job(job, tags={"dagster/partition": shard}, **options)


@pytest.fixture
def world(tmp_path: Path, pictures: Path) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield World(tmp_path, pictures, instance)


def everything(state: str) -> dict[str, str]:
    return dict.fromkeys(["media", *PERSPECTIVES], state)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_from_pending_to_done(world: World) -> None:
    assert world.status().totals == []
    world.pipeline.ingest()
    assert world.states(FIRST) == everything("pending")
    instance = world.pipeline.instance
    run = world.queued(FIRST)
    assert not daemon_alive(instance), "nothing would start it"
    assert world.states(FIRST) == everything("queued, no worker")
    assert world.states(SECOND) == everything("pending")
    queue = world.status().queue
    assert (queue["asked"], queue["queued_runs"], queue["workers_alive"]) == (True, 1, False)
    assert 0 <= queue["oldest_seconds"] < 60
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "QUEUED_RUN_COORDINATOR", "d", []))
    assert world.states(FIRST) == everything("queued")
    instance.report_run_canceled(run)
    assert world.states(FIRST) == everything("cancelled")
    assert world.pipeline.caption(FIRST).success
    assert world.states(FIRST) == everything("done")
    assert world.states(SECOND) == everything("pending")
    totals = {each.perspective: each for each in world.status().totals}
    assert totals["scene_count"].states == {"pending": 1, "done": 1}
    assert (totals["media"].done, totals["media"].missing) == (2, 2)


def test_another_pixel_budget_makes_media_stale_until_it_is_made_again(world: World) -> None:
    world.pipeline.ingest()
    assert world.pipeline.caption(FIRST).success
    file = world.pipeline.config.file
    file.write_text(file.read_text() + "media: {max_pixels: 4096}\n")
    smaller = Pipeline.of(load_config(file), lent(ScriptedEngine(world.engine)))
    smaller.instance, world.pipeline = world.pipeline.instance, smaller
    row = world.rows(FIRST)["media"]
    assert (row["state"], row["done"], row["stale"]) == ("stale", 0, 2)
    assert to_do(world.status())[0].startswith("demo, media: 2 missing, 2 stale (normalised as ")
    assert smaller.caption(FIRST).success
    assert world.states(FIRST) == everything("done")


def test_a_run_is_seen_while_it_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caption_assets.lake.heartbeats._LOCAL_SECONDS", 0.05)
    world.pipeline.ingest()
    world.engine.hold_after = 5
    ended: list[Outcome] = []
    run = threading.Thread(target=lambda: ended.append(world.pipeline.caption(FIRST, SECOND)), daemon=True)
    run.start()
    assert world.engine.held.wait(60)
    wait_for(lambda: [beat for beat in read_beats(world.pipeline.lake) if any(look.done for look in beat.looks)])
    status = world.status()
    (worker,) = status.workers
    assert (worker["state"], worker["step"]) == ("running", "captions")
    rows = [row for row in status.shards if row["perspective"] != "media"]
    assert {row["state"] for row in rows} <= {"running", "queued"}
    running = [row for row in rows if row["state"] == "running"]
    assert sum(row["done"] for row in running) == 5
    assert {row["worker"] for row in running} == {worker["worker"]}
    assert all(row["rate"] > 0 and row["seconds_to_go"] > 0 for row in running if 0 < row["done"] < row["total"])
    assert sum(each.done for each in status.totals if each.perspective != "media") == 5
    seen = [(row["shard"], row["state"], row["done"]) for row in running]
    alone = read_status(world.pipeline.config, shards=100).shards
    assert [(row["shard"], row["state"], row["done"]) for row in alone][: len(seen)] == seen, "without an instance, too"
    world.engine.go_on.set()
    run.join(180)
    assert ended[0].success
    assert world.states(FIRST) == world.states(SECOND) == everything("done")
    assert world.status().workers == []


def test_a_worker_that_was_killed_is_lost_and_its_shard_can_be_queued_again(world: World) -> None:
    world.pipeline.ingest()
    run = world.queued(FIRST, status=dg.DagsterRunStatus.STARTED)
    lake, now = world.pipeline.lake, time.time()
    fingerprints = {row["perspective"]: None for row in world.status().shards if row["perspective"] == "media"}
    stages = [{"stage": name, "fingerprint": None} for name in fingerprints]

    def beat(age: float) -> None:
        dead = Beat(run.run_id, "media", "me-1", stages, now, time.time() - age, 3.0, waiting=[FIRST])
        lake.write(layout.heartbeat_file("dead"), dead.content())

    beat(0)
    assert world.states(FIRST) == everything("queued"), "begun, but not with this"
    beat(LOST_AFTER_SECONDS + 1)
    assert world.states(FIRST)["media"] == "lost"
    assert [worker["state"] for worker in world.status().workers] == ["lost"]
    world.queued(FIRST)
    assert world.states(FIRST) == everything("queued, no worker")
    beat(0)
    world.pipeline.instance.report_run_failed(run)
    assert world.states(FIRST)["media"] == "queued, no worker"
    assert [worker["state"] for worker in world.status().workers] == ["lost"], "Dagster knows that its run is over"
    assert world.pipeline.caption(FIRST).success
    assert world.states(FIRST) == everything("done")


def test_failures_by_kind_and_a_run_that_failed(world: World) -> None:
    broken = sorted((world.pipeline.config.dataset_path("demo")).iterdir())[0]
    broken.write_bytes(b"no picture")
    world.pipeline.ingest()
    world.engine.fails = True
    assert not world.pipeline.caption(FIRST, SECOND).success
    media = world.rows(FIRST)["media"]
    assert (media["state"], media["failure_kinds"]) == ("done with errors", {"not_an_image": 1})
    rows = [world.rows(SECOND)[name] for name in PERSPECTIVES]
    failed = [row for row in rows if row["state"] == "failed"]
    assert failed
    assert all(row["missing"] and "max_failure_share" in row["error"] for row in failed)
    assert {row["state"] for row in rows if not row["missing"]} <= {"done with errors"}, "each picture has its failure"
    assert [worker["state"] for worker in world.status().workers] == ["failed"]
    assert {row["kind"] for row in world.status().failures} >= {"not_an_image", "engine"}
    world.engine.fails = False
    assert world.pipeline.caption(FIRST, SECOND).success
    assert world.states(FIRST) == {**everything("done"), "media": "done with errors"}
    assert world.states(SECOND) == everything("done")
    assert world.status().workers == []


def test_a_run_that_failed_before_it_could_say_so(world: World) -> None:
    world.pipeline.ingest()
    run = world.queued(FIRST)
    world.pipeline.instance.report_run_failed(run)
    assert world.states(FIRST) == everything("failed")
    outcome = world.pipeline.run("", FIRST, select=["media"])
    assert outcome.success
    assert world.states(FIRST) == {**everything("failed"), "media": "done"}, "that run was for the media only"


def test_detail_is_bounded_and_shows_what_matters_first(world: World) -> None:
    world.pipeline.ingest()
    world.pipeline.caption(FIRST)
    status = read_status(world.pipeline.config, shards=6)
    assert [row["state"] for row in status.shards] == ["pending"] * 5 + ["done"]
    assert status.shards_left_out == 4
    assert not read_status(world.pipeline.config).shards
    json.dumps(status.document())


def test_materializations_say_the_same(world: World) -> None:
    world.pipeline.ingest()
    outcome = world.pipeline.caption(FIRST)
    for name, row in world.rows(FIRST).items():
        told = outcome.of(name if name == "media" else f"captions/{name}", FIRST).metadata
        assert (told["pictures"], told["failed"]) == (row["done"], row["failed"])
        assert told["pictures per second"] > 0
    catalog = world.pipeline.run("", None, select=["catalog"]).of("catalog", None)
    table = {each.data["perspective"]: each.data for each in catalog.metadata["status"].records}
    for total in world.status().totals:
        shown = table[total.perspective]
        assert (shown["pictures"], shown["done"], shown["missing"]) == (total.total, total.done, total.missing)
