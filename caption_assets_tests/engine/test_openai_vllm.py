"""The engine over vLLM's own server: the bundled model captions a shard through it, structured output included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.engine.device import cpu_dtype
from caption_assets.engine.lazy import OpenEngine
from caption_assets.engine.loading import open_engine
from caption_assets.engine.models import TINY_FOLDER
from caption_assets.engine.openai_check import look_at_servers
from caption_assets.engine.openai_engine import OpenAIServers
from caption_assets.engine.protocol import Engine
from caption_assets.engine.vllm_args import prepare_environment
from caption_assets.lake.store import Lake
from caption_assets_tests.support import bound_of, caption, ingest

MakeConfig = Callable[..., PipelineConfig]
_START_SECONDS = 240.0


@pytest.fixture
def vllm_server(tmp_path: Path) -> Iterator[str]:
    """The base URL of a server with the bundled model, under the name `tiny`."""
    prepare_environment()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = {
        "model": str(TINY_FOLDER),
        "served-model-name": "tiny",
        "host": "127.0.0.1",
        "port": str(port),
        "dtype": cpu_dtype(),
        "max-model-len": "1024",
        "max-num-seqs": "16",
        "block-size": "32",
        "kv-cache-memory-bytes": str(256 << 20),
        "limit-mm-per-prompt": '{"image": 1}',
        "generation-config": "vllm",
        "structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--skip-mm-profiling"]
    for name, value in arguments.items():
        command += [f"--{name}", value]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)


@pytest.mark.slow
def test_vllms_server_captions_a_shard(make_config: MakeConfig, vllm_server: str, open_shared: OpenEngine) -> None:
    pool = {"kind": "openai", "model": "tiny", "servers": [vllm_server], "image": {"format": "png"}}
    config = make_config(engines={"default": pool})
    section = config.engines["default"]
    assert section.kind == "openai"
    assert [state.problem for state in look_at_servers(section, None)] == [None]
    assert look_at_servers(section.model_copy(update={"model": "other"}), None)[0].problem == (
        "serves no model 'other', only tiny; correct the name"
    )
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    opened: list[OpenAIServers] = []

    @contextmanager
    def watched(config: PipelineConfig, name: str, waiting: Callable[[], None]) -> Iterator[Engine]:
        with open_engine(config, name, waiting) as engine:
            assert isinstance(engine, OpenAIServers)
            opened.append(engine)
            yield engine

    (report,) = caption(config, lake, shards, watched)
    assert len(report.looks) == 4
    assert all((look.done, look.failed) == (8, 0) for look in report.looks.values())
    (server,) = opened[0].servers
    assert (server.answered, server.named, server.missed) == (32, 16, 0), "each picture was sent once of three times"
    stored = rows.read_rows(lake, bound_of(config)["scene_caption"], shards[0])
    # Batched bfloat16 does not repeat itself to the letter, but a picture that arrived otherwise would say otherwise.
    here = make_config(lake="./here")
    ingest(here, Lake(here.lake))
    caption(here, Lake(here.lake), shards, open_shared, only=["scene_caption"])
    beside = rows.read_rows(Lake(here.lake), bound_of(here)["scene_caption"], shards[0])
    alike = [stored[media_id]["output"] == row["output"] for media_id, row in beside.items()]
    assert sum(alike) >= 6, alike
    assert all(row["prompt_tokens"] > 64 and row["attempts"] == 1 for row in stored.values())
