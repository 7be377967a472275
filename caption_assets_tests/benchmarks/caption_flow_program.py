"""CaptionFlow 0.5.4 as an installed program, in its mock mode, seen from outside: its files, logs and processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from caption_assets_tests.benchmarks.openai_engine import Outcome

_DEADLINE_SECONDS = 180.0
_COUNT = "import lance, sys; print(len(set(lance.dataset(sys.argv[1]).to_table(['job_id'])['job_id'].to_pylist())))"


def caption_flow(environment: Path, python: str) -> Path:
    """The program's command, installed if it is not there yet. Raises SystemExit if the Python given is too old."""
    command = environment / "bin" / "caption-flow"
    if not command.exists():
        if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"]).returncode:
            raise SystemExit(
                f"{python} is too old for what CaptionFlow depends on: give one of 3.12 or newer as --python"
            )
        subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
        subprocess.run(
            [environment / "bin" / "python", "-m", "pip", "install", "-q", "caption-flow==0.5.4"], check=True
        )
    return command


class CaptionFlow:
    """CaptionFlow's orchestrator and worker in mock mode, with files in a folder of their own.

    Args:
        settings: of its orchestrator, beside those that it needs; `storage` is merged.
    """

    def __init__(self, command: Path, work: Path, pictures: Path, batch: int, settings: dict[str, Any]) -> None:
        self._command, self._work = command, work
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self._port, picture_port = _free_ports()
        storage = {"data_dir": str(work / "data"), "checkpoint_dir": str(work / "checkpoints")}
        dataset: dict[str, Any] = {"processor_type": "local_filesystem", "dataset_path": str(pictures)}
        dataset |= {"http_bind_address": "127.0.0.1", "http_port": picture_port}
        document = {
            **settings,
            "host": "127.0.0.1",
            "port": self._port,
            "dataset": dataset,
            "storage": settings.get("storage", {}) | storage,
            "vllm": {"mock_results": True, "batch_size": batch, "model": "none", "inference_prompts": ["describe"]},
            "auth": {"worker_tokens": [{"name": "benchmark", "token": "benchmark"}]},
        }
        worker = {"server": f"ws://127.0.0.1:{self._port}", "token": "benchmark", "name": "benchmark", "vllm": True}
        (work / "orchestrator.yaml").write_text(yaml.safe_dump({"orchestrator": document}))
        (work / "worker.yaml").write_text(yaml.safe_dump({"worker": worker}))
        own = {"CAPTIONFLOW_LOG_DIR": str(work), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        self._environment = os.environ | own

    def quiet(self) -> None:
        """Log no more than warnings, where it can be told to."""
        self._environment["CAPTIONFLOW_LOG_LEVEL"] = "WARNING"

    @contextmanager
    def started(self) -> Iterator[None]:
        """Orchestrator and worker run."""
        try:
            self.start("orchestrator", "--no-ssl")
            self.wait(self._answers)
            self.start("worker")
            yield
        finally:
            for name in list(self._running):
                self.stop(name, signal.SIGKILL)

    def start(self, name: str, *options: str) -> None:
        """Start one of the two."""
        command = [str(self._command), name, "--config", str(self._work / f"{name}.yaml"), *options]
        with (self._work / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self._work, env=self._environment
            )

    def stop(self, name: str, how: signal.Signals) -> None:
        """Send one of the two a signal and wait until it is gone."""
        process = self._running.pop(name)
        process.send_signal(how)
        process.wait(_DEADLINE_SECONDS)

    def repair(self) -> int:
        """Exit status of its command for the time after a crash."""
        places = ["--data-dir", str(self._work / "data"), "--checkpoint-dir", str(self._work / "checkpoints")]
        command = [str(self._command), "scan-chunks", "--fix", *places]
        return subprocess.run(command, capture_output=True, cwd=self._work, env=self._environment).returncode

    def wait(self, condition: Callable[[], bool]) -> None:
        """Raises RuntimeError if the condition does not come true or a process ends."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition():
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"CaptionFlow's {ended or 'processes'} came to a stop; see {self._work}/*.log")
            time.sleep(0.1)

    def rates(self, rows: int, count: int) -> list[Outcome]:
        """Captions a second between the first writes of so many rows each, and the CPU time of both processes."""
        self.wait(lambda: len(self._writes()) > 0)
        before = self._cpu()
        self.wait(lambda: len(self._writes()) > count)
        cpu = 1000 * (self._cpu() - before) / (rows * count)
        return [Outcome(rows / (after - at), cpu) for at, after in pairwise(self._writes()[: count + 1])]

    def done(self) -> int:
        """Pictures that the orchestrator's progress file calls done."""
        file = self._work / "checkpoints" / "chunks.json"
        if not file.exists():
            return 0
        chunks = json.loads(file.read_text())["chunks"].values()
        return sum(_size(chunk) for chunk in chunks)

    def stored(self) -> int:
        """Pictures with a caption in its storage."""
        python, storage = self._command.parent / "python", self._work / "data" / "captions.lance"
        return int(subprocess.run([python, "-c", _COUNT, storage], check=True, capture_output=True).stdout)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _writes(self) -> list[float]:
        """When its storage was written; the first version is the empty one."""
        versions = (self._work / "data" / "captions.lance" / "_versions").glob("*.manifest")
        return sorted(version.stat().st_mtime for version in versions)[1:]

    def _cpu(self) -> float:
        stats = [Path(f"/proc/{process.pid}/stat").read_text() for process in self._running.values()]
        ticks = sum(int(tick) for stat in stats for tick in stat.rpartition(")")[2].split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")


def _size(chunk: dict[str, Any]) -> int:
    if chunk["status"] == "completed":
        return int(chunk["chunk_size"])
    return sum(last - first + 1 for first, last in chunk["processed_ranges"])


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
