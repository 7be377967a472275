"""A run is cancelled as the UI does it, by a mark and an interrupt: it ends soon, and what was finished is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from aiohttp import web

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.demo.scenes import write_scenes
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS
from caption_assets_tests.engine.stub_server import MODEL, Call, StubServer
from caption_assets_tests.support import bound_of, ingest

MakeConfig = Callable[..., PipelineConfig]
_START_SECONDS = 200.0
TINY = {"kind": "vllm", "model": "tiny"}


@contextmanager
def started(config: PipelineConfig, home: Path, shard: Shard, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A caption run in a process of its own, its output in `output` in the home folder."""
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = os.environ | {
        "CAPTION_ASSETS_CONFIG": str(config.file),
        "CAPTION_ASSETS_LOCKS": str(home),
        "DAGSTER_HOME": str(home),
        **variables,
    }
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(SHARDS, [shard.key])
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "caption_assets.definitions", "-j", CAPTION_JOB]
    command += ["--tags", json.dumps({"dagster/partition": shard.key})]
    with (home / "output").open("wb") as output:
        run = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()


def wait_until(condition: Callable[[], object], run: subprocess.Popen[bytes], home: Path) -> None:
    """Wait for a running run to come that far."""
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        assert run.poll() is None, (home / "output").read_text()[-3000:]
        assert time.monotonic() < deadline, (home / "output").read_text()[-3000:]
        time.sleep(0.02)


def cancel(run: subprocess.Popen[bytes], home: Path, signal_: signal.Signals = signal.SIGINT) -> None:
    """Interrupt a run; it and all its processes end in time, and Dagster knows that it was cancelled."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (record,) = instance.get_run_records()
        instance.report_run_canceling(record.dagster_run)
    asked = time.monotonic()
    os.kill(run.pid, signal_)
    run.wait(_START_SECONDS)
    deadline = asked + stop_seconds()
    assert time.monotonic() < deadline, (home / "output").read_text()[-5000:]
    while left := processes_of(run.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (record,) = instance.get_run_records()
    assert record.dagster_run.status is dg.DagsterRunStatus.CANCELED, (home / "output").read_text()[-5000:]


def stop_seconds() -> float:
    """Ten seconds, on a machine that has its cores for itself."""
    return 10.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def processes_of(session: int) -> list[str]:
    """The names of the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, its_session = fields.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def stored(config: PipelineConfig, shard: Shard) -> int:
    """How many captions the lake holds."""
    lake = Lake(config.lake)
    return sum(len(rows.read_rows(lake, bound, shard)) for bound in bound_of(config).values())


def many(make_config: MakeConfig, folder: Path, count: int, engine: dict[str, object]) -> tuple[PipelineConfig, Shard]:
    """A shard with so many pictures, its media made."""
    write_scenes(folder, count, 99)
    config = make_config(
        datasets={"demo": {"kind": "folder", "path": str(folder), "shard_size": 1000}}, engines={"default": engine}
    )
    (shard,) = ingest(config, Lake(config.lake))
    return config, shard


@pytest.mark.parametrize(
    "signal_", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["interrupted", "terminated"]
)
def test_a_run_over_servers(make_config: MakeConfig, tmp_path: Path, signal_: signal.Signals) -> None:
    async def stall_at_times(call: Call) -> web.StreamResponse | None:
        if call.number % 20 == 19:
            await asyncio.sleep(60)
        return None

    home = tmp_path / "home"
    home.mkdir()
    with StubServer(stall_at_times, latency=0.02) as server:
        pool = {"kind": "openai", "model": MODEL, "servers": [server.url], "max_in_flight": 8}
        config, shard = many(make_config, tmp_path / "many", 60, pool)
        with started(config, home, shard) as run:
            wait_until(lambda: len(server.calls) >= 70, run, home)
            answered = len(server.calls) - 8
            cancel(run, home, signal_)
        assert stored(config, shard) >= answered
        server.behave = lambda call: asyncio.sleep(0)  # type: ignore[assignment, return-value]
        asked = len(server.calls)
        kept = stored(config, shard)
        with started(config, home, shard) as run:
            assert run.wait(_START_SECONDS) == 0, (home / "output").read_text()[-3000:]
    assert len(server.calls) - asked == 4 * 60 - kept, "what was kept is not asked again"
    assert stored(config, shard) == 4 * 60


@pytest.mark.slow
def test_a_run_that_loads_its_model(make_config: MakeConfig, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config, shard = many(make_config, tmp_path / "many", 4, TINY)
    with started(config, home, shard) as run:
        wait_until(lambda: b"loading tiny" in (home / "output").read_bytes(), run, home)
        cancel(run, home)
    assert stored(config, shard) == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["in_process", "async"])
@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_run_on_its_own_model(make_config: MakeConfig, tmp_path: Path, mode: str, executor: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config, shard = many(make_config, tmp_path / "many", 600, TINY | {"mode": mode})
    with started(config, home, shard, CAPTION_ASSETS_EXECUTOR=executor) as run:
        wait_until(lambda: stored(config, shard), run, home)
        kept = stored(config, shard)
        cancel(run, home)
    assert kept <= stored(config, shard) < 4 * 600


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 3.0, 8.0])
def test_a_run_that_loads_its_model_into_another_process(make_config: MakeConfig, tmp_path: Path, delay: float) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config, shard = many(make_config, tmp_path / "many", 4, TINY | {"mode": "async"})
    with started(config, home, shard) as run:
        wait_until(lambda: b"loading tiny" in (home / "output").read_bytes(), run, home)
        time.sleep(delay)  # libraries are being imported, processes started, weights read
        cancel(run, home)
