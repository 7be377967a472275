"""Killed at random instants with what takes long to start: vLLM with an engine process of its own, and Dagster."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from caption_assets.config import PipelineConfig
from caption_assets.demo.scenes import write_scenes
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards
from caption_assets_tests import invariants
from caption_assets_tests.captioning.attacked import whole_path
from caption_assets_tests.captioning.processes import dagster_job, engines
from caption_assets_tests.engine.stub_server import StubServer

MakeConfig = Callable[..., PipelineConfig]
_KILLS = 20
_GONE_SECONDS = 60.0
"""Longer than an engine process takes to start on a busy machine: only then does it look for its run."""


def vllm_run(config: PipelineConfig, locks: Path) -> subprocess.Popen[str]:
    """The whole path with an engine process of its own, in a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "caption_assets_tests.captioning.attacked", str(config.file), "run", "7"],
        env=os.environ | {"CAPTION_ASSETS_LOCKS": str(locks)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill(run: subprocess.Popen[str], *, group: bool) -> list[psutil.Process]:
    """Kill a run, alone or with its group; returns the processes it had started."""
    os.kill(run.pid, signal.SIGSTOP)  # it starts no more while we look
    started = psutil.Process(run.pid).children(recursive=True)
    (os.killpg if group else os.kill)(run.pid, signal.SIGKILL)
    run.communicate()
    return started


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_with_an_engine_process_leave_none_behind(make_config: MakeConfig, tmp_path: Path) -> None:
    write_scenes(tmp_path / "many", 72, 5)
    config = make_config(
        datasets={"demo": {"kind": "folder", "path": str(tmp_path / "many"), "shard_size": 24}},
        engines={"default": {"kind": "vllm", "model": "tiny", "mode": "async"}},
        lake="./undisturbed",
    )
    began = time.monotonic()
    run = vllm_run(config, tmp_path)
    captions = Path(config.lake, "captions")
    while not list(captions.rglob("part-*")) and run.poll() is None:
        time.sleep(0.05)
    loaded = time.monotonic() - began
    printed, _ = run.communicate()
    assert run.returncode == 0, printed[-3000:]
    captioned = time.monotonic() - began - loaded
    calm = Lake(config.lake)
    undisturbed = invariants.contents(config, calm)
    assert len(undisturbed) == 72 + 4 * 72

    chance = random.Random(20)
    kills = lives = with_engine = 0
    longest = 0.0
    while kills < _KILLS:
        config = make_config(**sections(config), lake=f"./life{lives}")
        lake = Lake(config.lake)
        while True:
            run = vllm_run(config, tmp_path)
            if kills % 2:  # while it captions
                known = set(Path(config.lake).rglob("part-*"))
                while not set(Path(config.lake).rglob("part-*")) - known and run.poll() is None:
                    time.sleep(0.02)
                wait = chance.uniform(0, captioned / 3)  # the rest is the engine's end
            else:
                wait = chance.uniform(0, loaded)
            try:
                printed, _ = run.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                started = kill(run, group=kills % 4 >= 2)
            else:
                assert run.returncode == 0, printed[-3000:]
                break
            kills += 1
            with_engine += bool(started)
            died = time.monotonic()
            left = psutil.wait_procs(started, _GONE_SECONDS)[1]
            assert not left, [process.cmdline() for process in left]
            longest = max(longest, time.monotonic() - died)
        lives += 1
        assert invariants.contents(config, lake).keys() == undisturbed.keys()
        invariants.hold(config, lake)
        invariants.complete(config, lake)
        invariants.tidy(lake, calm)
    assert with_engine >= _KILLS // 3
    print(
        f"{kills} kills in {lives} lives, {with_engine} of them with engine processes, which were gone after "
        f"{longest:.1f} s at most; an undisturbed run loads for {loaded:.0f} s and captions for {captioned:.0f} s"
    )


def sections(config: PipelineConfig) -> dict[str, object]:
    """What a pipeline file says of datasets and engines."""
    document = config.model_dump(mode="json")
    return {name: document[name] for name in ("datasets", "engines")}


@pytest.mark.slow
def test_killed_dagster_jobs_change_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    chance = random.Random(3)
    with StubServer(latency=0.05) as server:
        config = make_config(engines=engines(server), lake="./undisturbed")
        whole_path(str(config.file), "undisturbed")
        undisturbed = invariants.contents(config, Lake(config.lake))

        config = make_config(engines=engines(server))
        lake = Lake(config.lake)
        assert dagster_job(config, tmp_path, "ingest_job", "demo").wait() == 0
        kills = 0
        for shard in planned_shards(lake, "demo"):
            server.calls.clear()
            within = 0.3  # surely at work; later instants may find it at its end
            while True:
                job = dagster_job(config, tmp_path, "caption_job", shard.key)
                while not server.calls and job.poll() is None:
                    time.sleep(0.02)
                try:
                    printed, _ = job.communicate(timeout=chance.uniform(0, within))
                except subprocess.TimeoutExpired:
                    # without its group: the step's process lives on, and the next run meets it at work
                    (os.killpg if kills % 2 else os.kill)(job.pid, signal.SIGKILL)
                    job.wait()
                    kills += 1
                    within = 2.0
                    server.calls.clear()
                    continue
                assert job.returncode == 0, printed[-3000:]
                break
        print(f"{kills} kills")
        assert kills >= 3
        deadline = time.monotonic() + 60
        while any(str(tmp_path) in " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])):
            assert time.monotonic() < deadline, "steps that outlive their runs come to an end"
            time.sleep(0.2)
    assert invariants.contents(config, lake) == undisturbed
    invariants.hold(config, lake)
    invariants.complete(config, lake)
