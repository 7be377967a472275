"""Runs in processes of their own, to be killed: of the whole path, forked from one ready to go; of Dagster."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from caption_assets.config import PipelineConfig
from caption_assets_tests.captioning.attacked import forked
from caption_assets_tests.engine.stub_server import MODEL, StubServer

_DEADLINE_SECONDS = 240.0
_FLUSH_ROWS = 3
"""Parts so small that kills fall between them."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", forked.__module__])


def engines(server: StubServer) -> dict[str, Any]:
    """The engines of a pipeline file over the stub."""
    return {"default": {"kind": "openai", "model": MODEL, "servers": [server.url], "max_in_flight": 8}}


class Runs:
    """Runs over one pipeline file, each in a process of its own, some of them killed."""

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._processes: list[Any] = []

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()

    def start(self, last: int | None = None) -> Any:
        """A run that has just begun; it is killed when it names, links or removes its `last` file."""
        started = FORKS.Event()
        arguments = str(self._config.file), f"run{len(self._processes)}", _FLUSH_ROWS, started, last
        process = FORKS.Process(target=forked, args=arguments)
        process.start()
        self._processes.append(process)
        assert started.wait(_DEADLINE_SECONDS)
        return process

    def finish(self) -> float:
        """Run to the end; returns seconds."""
        process = self.start()
        began = time.monotonic()
        process.join(_DEADLINE_SECONDS)
        assert process.exitcode == 0
        return time.monotonic() - began

    def killed_after(self, seconds: float) -> bool:
        """Run, and kill all of its processes so much later; False when it had ended before."""
        process = self.start()
        process.join(seconds)
        if process.exitcode is None:
            with suppress(ProcessLookupError):  # it came to its end in this moment
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return _was_killed(process)

    def killed_at(self, file: int) -> bool:
        """Run until it names, links or removes its so-manieth file; False when there were fewer."""
        process = self.start(file)
        process.join(_DEADLINE_SECONDS)
        return _was_killed(process)


def _was_killed(process: Any) -> bool:
    assert process.exitcode in (0, -signal.SIGKILL)
    return bool(process.exitcode)


def dagster_job(config: PipelineConfig, home: Path, job: str, partition: str) -> subprocess.Popen[str]:
    """`dagster job execute` of a partition, in a process group of its own."""
    environment = os.environ | {
        "CAPTION_ASSETS_CONFIG": str(config.file),
        "CAPTION_ASSETS_LOCKS": str(home),  # the session's engine holds the device of the tests
        "DAGSTER_HOME": str(home),
    }
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "caption_assets.definitions", "-j", job]
    return subprocess.Popen(
        [*command, "--tags", json.dumps({"dagster/partition": partition})],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
