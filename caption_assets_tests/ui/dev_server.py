"""A Dagster of its own: instance, lake, pipeline file and watched folder in a temporary folder; `dagster dev`, or code
server, webserver and daemon as a deployment has them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from caption_assets.config import PipelineConfig, load_config

T = TypeVar("T")

DATASET = "street"
SHARD_SIZE = 16
WAIT_SECONDS = 180.0
LOCATION = "caption_assets.definitions"

_CHECKOUT = Path(__file__).resolve().parents[2]
_PIPELINE = f"""\
lake: ./lake
datasets:
  {DATASET}: {{kind: folder, path: ./pictures, watch: true, shard_size: {SHARD_SIZE}}}
perspectives:
  library: [demo]
  enabled: [scene_caption, scene_objects, scene_count, synthesized_caption]
engines:
  default: {{kind: vllm, model: tiny}}
"""
_TICKS = """query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
    ... on Sensor { sensorState { ticks(limit: 100) { status runIds skipReason } } } } }"""
_STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_LOG = """query($run: ID!) { logsForRun(runId: $run, limit: 1000) {
    ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
_BACKFILL = (
    "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { runs { id } } } }"
)
_EVENTS = """query($key: AssetKeyInput!, $partitions: [String!]) { assetOrError(assetKey: $key) {
    ... on Asset { assetMaterializations(partitions: $partitions) { runId } } } }"""
# What the webserver asks of Dagster's hosts, and vLLM of its own, is of no use to a test.
_QUIET = {"DAGSTER_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class DevServer:
    """A running webserver with its code location and daemon, and what they work on."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> PipelineConfig:
        """The pipeline file that it runs."""
        return load_config(self.folder / "pipeline.yaml")

    @property
    def pictures(self) -> Path:
        """The watched folder, empty at first."""
        return self.folder / "pictures"

    @property
    def lake(self) -> Path:
        """The lake's folder."""
        return self.folder / "lake"

    def query(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the webserver's GraphQL."""
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            reply: dict[str, Any] = json.load(answer)
        assert "errors" not in reply, reply["errors"]
        data: dict[str, Any] = reply["data"]
        return data

    def ticks(self, sensor: str = f"arrivals_{DATASET}") -> list[dict[str, Any]]:
        """The finished ticks of a sensor, latest first."""
        selector = {
            "repositoryName": "__repository__",
            "repositoryLocationName": LOCATION,
            "sensorName": sensor,
        }
        answer = self.query(_TICKS, {"selector": selector})["sensorOrError"]["sensorState"]["ticks"]
        return [tick for tick in answer if tick["status"] != "STARTED"]

    def run_status(self, run: str) -> str:
        """Status of a run, as Dagster spells it."""
        return str(self.query(_STATUS, {"run": run})["runOrError"]["status"])

    def messages(self, run: str) -> list[str]:
        """The lines of a run's log."""
        events = self.query(_LOG, {"run": run})["logsForRun"]["events"]
        return [event["message"] for event in events if "message" in event]

    def backfill_runs(self, backfill: str) -> list[str]:
        """Ids of the runs of a backfill."""
        return [run["id"] for run in self.query(_BACKFILL, {"id": backfill})["partitionBackfillOrError"]["runs"]]

    def materializations(self, asset: Sequence[str], partitions: Sequence[str]) -> int:
        """How many materializations of these partitions the instance knows."""
        answer = self.query(_EVENTS, {"key": {"path": asset}, "partitions": partitions})
        return len(answer["assetOrError"]["assetMaterializations"])


def wait_for(what: str, find: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """Ask until there is an answer that is true; fail, naming what was waited for, when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.5)
    return found


@contextmanager
def dev_server(folder: Path, **sections: Any) -> Iterator[DevServer]:
    """Run `dagster dev` in `folder` until it is left; its log is `dev.log` there. Keywords replace sections of the
    pipeline file."""
    _prepare(folder)
    write_pipeline(folder / "pipeline.yaml", **sections)
    server = DevServer(folder, _free_port())
    arguments = ["dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(server.port)]
    with _running(folder, folder / "pipeline.yaml", "dev", *arguments) as process:
        wait_for("the webserver with the code location loaded", lambda: _is_up(server, [process]))
        yield server


@contextmanager
def separate_servers(folder: Path, pipeline: Path) -> Iterator[DevServer]:
    """Run code server, webserver and daemon as processes of their own until they are left, as deploy/k8s does. Their
    logs are `*.log` in `folder`."""
    _prepare(folder)
    server, code = DevServer(folder, _free_port()), _free_port()
    workspace = folder / "workspace.yaml"
    place = {"host": "localhost", "port": code, "location_name": "caption-assets"}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": place}]}), encoding="utf-8")
    serve = ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(code), "--module-name", LOCATION]
    show = ["dagster_webserver", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(server.port)]
    with _running(folder, pipeline, "code-server", *serve) as code_server:
        wait_for("the code server", lambda: _listens(code, code_server))
        with (
            _running(folder, pipeline, "webserver", *show) as webserver,
            _running(folder, pipeline, "daemon", "dagster._daemon", "run", "-w", str(workspace)) as daemon,
        ):
            wait_for("the webserver", lambda: _is_up(server, [code_server, webserver, daemon]))
            yield server


def write_pipeline(file: Path, **sections: Any) -> None:
    """Write the tests' pipeline file; keywords replace its sections."""
    file.write_text(yaml.safe_dump(yaml.safe_load(_PIPELINE) | sections), encoding="utf-8")


def _prepare(folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "pictures").mkdir()
    settings = yaml.safe_load((_CHECKOUT / "deploy" / "local" / "dagster.yaml").read_text(encoding="utf-8"))
    # No invitation to Dagster's community: it comes seconds after the first page, above whatever is there by then.
    (folder / "home" / "dagster.yaml").write_text(
        yaml.safe_dump(settings | {"nux": {"enabled": False}}), encoding="utf-8"
    )


@contextmanager
def _running(folder: Path, pipeline: Path, name: str, *module: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module with its arguments until it is left; its log is `<name>.log` in `folder`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=_CHECKOUT,
            env=_environment(folder, pipeline),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _stop(process)


def _environment(folder: Path, pipeline: Path) -> dict[str, str]:
    ours = {"CAPTION_ASSETS_LAKE", "CAPTION_ASSETS_EXECUTOR"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return (
        inherited
        | _QUIET
        | {
            "DAGSTER_HOME": str(folder / "home"),
            "CAPTION_ASSETS_CONFIG": str(pipeline),
            "CAPTION_ASSETS_LOCKS": str(folder),
        }
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_up(server: DevServer, processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    for process in processes:
        assert process.poll() is None, f"{process.args!r} ended: {_logs(server.folder)}"
    query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    try:
        entries = server.query(query)["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    kinds = [entry["locationOrLoadError"]["__typename"] for entry in entries if entry["locationOrLoadError"]]
    assert "PythonError" not in kinds, _logs(server.folder)
    return kinds == ["RepositoryLocation"]


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"{process.args!r} ended"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _logs(folder: Path) -> str:
    return "\n".join(file.read_text()[-4000:] for file in folder.glob("*.log"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask nicely, then make sure: the whole group, runs and code servers included."""
    for signal_, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, signal_)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    process.poll()
