"""An installation on loopback: object store with a queue, caption server, callbacks, Kafka, and `dagster dev`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import s3fs
import yaml

from caption_assets.config import PipelineConfig, load_config
from caption_assets_tests.arrivals.aws import Aws
from caption_assets_tests.engine.stub_server import MODEL, StubServer
from caption_assets_tests.events.receiver import Receiver, receiving
from caption_assets_tests.kafka import broker
from caption_assets_tests.sources.servers import free_port, s3_server

BUCKET = "uploads"
DATASET = "uploads"
TOPICS = ["media.processed", "captions.result", "jobs.status"]
_CHECKOUT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120.0
_QUIET = {"DAGSTER_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass
class Dagster:
    """`dagster dev` of an instance; it can be killed, in part or as a whole, and started again."""

    folder: Path
    port: int
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait for its daemon."""
        self.starts += 1
        command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
        environment = os.environ | _QUIET | {
            "DAGSTER_HOME": str(self.folder / "home"),
            "CAPTION_ASSETS_CONFIG": str(self.folder / "pipeline.yaml"),
            "CAPTION_ASSETS_LOCKS": str(self.folder),
            "CAPTION_ASSETS_WEBSERVER": f"http://127.0.0.1:{self.port}",
        }  # fmt: skip
        with (self.folder / f"dev-{self.starts}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-p", str(self.port)],
                cwd=_CHECKOUT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until("the daemon runs", lambda: self.daemon() is not None, _START_SECONDS)

    def stop(self) -> None:
        """Kill all of it: runs and code servers, too."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def daemon(self) -> psutil.Process | None:
        """The process of the daemon."""
        return next((each for each in self._processes() if "dagster._daemon" in _command(each)), None)

    def workers(self) -> list[psutil.Process]:
        """The processes of runs under way."""
        return [each for each in self._processes() if "multiprocessing.spawn" in _command(each)]

    def kill_daemon(self) -> None:
        """Kill the daemon, let what runs beside it notice, and start anew."""
        if daemon := self.daemon():
            daemon.kill()
        self.stop()
        self.start()

    def kill_worker(self) -> bool:
        """Kill a run; whether there was one."""
        for worker in self.workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
                return True
        return False

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []


@dataclass
class World:
    """What the soak works on, and what it has done so far."""

    folder: Path
    store: s3fs.S3FileSystem
    server: StubServer
    receiver: Receiver
    kafka: broker.Broker
    dagster: Dagster
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """What lies in the bucket, by URI."""

    @property
    def config(self) -> PipelineConfig:
        """The pipeline file."""
        return load_config(self.folder / "pipeline.yaml")

    def upload(self, name: str, data: bytes) -> None:
        """Put an object."""
        uri = f"s3://{BUCKET}/{name}"
        self.store.pipe_file(uri, data)
        self.uploaded[uri] = data

    def prompt(self, perspective: str, prompt: str) -> None:
        """Write a perspective's file, at once, as an editor does."""
        file = self.folder / "perspectives" / f"{perspective}.json"
        document = json.loads(file.read_text())
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps({**document, "prompt": prompt}))
        beside.replace(file)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """An installation with an empty bucket, running."""
    home = folder / "home"
    home.mkdir()
    settings = yaml.safe_load((_CHECKOUT / "deploy" / "local" / "dagster.yaml").read_text(encoding="utf-8"))
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    _write_perspectives(folder / "perspectives")
    with s3_server() as url, StubServer() as server, receiving() as receiver, broker.running() as kafka:
        store, cloud = s3fs.S3FileSystem(use_listings_cache=False), Aws(url)
        store.call_s3("create_bucket", Bucket=BUCKET)
        queue = cloud.queue()
        cloud.notify(BUCKET, queue)
        kafka.create(*TOPICS)
        sqs = {"queue": queue, "endpoint_url": url, "region": "us-east-1"}
        pipeline = _pipeline(server, receiver, kafka, sqs)
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
        dagster = Dagster(folder, free_port())
        dagster.start()
        try:
            yield World(folder, store, server, receiver, kafka, dagster)
        finally:
            dagster.stop()


def _pipeline(server: StubServer, receiver: Receiver, kafka: broker.Broker, sqs: Mapping[str, str]) -> dict[str, Any]:
    uploads = {
        "kind": "bucket", "url": f"s3://{BUCKET}", "watch": True, "shard_size": 20, "max_wait_seconds": 10,
        "notifications": {"sqs": sqs},
    }  # fmt: skip
    return {
        "lake": "./lake",
        "datasets": {DATASET: uploads},
        "perspectives": {"library": ["./perspectives"], "enabled": ["described", "counted", "summed_up"]},
        "engines": {"default": {"kind": "openai", "model": MODEL, "servers": [server.url], "max_in_flight": 4}},
        "callbacks": [receiver.callback()],
        "kafka": {"brokers": [kafka.address], "topics": TOPICS},
        "recaption": {"policy": "all", "repairs": {"pause_minutes": 0.5}},
    }


def _write_perspectives(folder: Path) -> None:
    folder.mkdir()
    text = {"name": "text", "type": "str"}
    for name, prompt, inputs in (
        ("described", "Describe it.", []),
        ("counted", "Count what is in it.", []),
        ("summed_up", "Sum up: {{ inputs.described.text }} and {{ inputs.counted.text }}", ["described", "counted"]),
    ):
        document = {
            "name": name, "display_name": name, "version": "1", "prompt": prompt, "schema_fields": [text],
            "inputs": inputs, "image": not inputs,
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def wait_until(what: str, holds: Callable[[], object], seconds: float, between: float = 1.0) -> None:
    """Return once it holds; fail, naming what was waited for, when the time is up."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(between)


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
