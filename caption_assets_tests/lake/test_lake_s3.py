"""The whole path with the lake on S3, over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import s3fs

from caption_assets.captioning.catalog import open_views, refresh
from caption_assets.commands.check import check_pipeline
from caption_assets.config import CONFIG_VARIABLE, PipelineConfig
from caption_assets.engine.lazy import OpenEngine
from caption_assets.lake.heartbeats import Heartbeat, LookProgress
from caption_assets.lake.store import Lake
from caption_assets.status.reading import read_status
from caption_assets_tests.support import SharedEngine, caption, ingest


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket on a server of the test's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        _wait_for(port)
        s3fs.S3FileSystem().mkdir("pictures")
        yield "s3://pictures/captions"
    finally:
        server.kill()
        server.wait()
        s3fs.S3FileSystem.clear_instance_cache()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server did not start")


def test_of_two_claims_on_a_bucket_one_wins(bucket: str) -> None:
    first, second = Lake(bucket), Lake(bucket)
    assert first.create("shards/one", b"first")
    assert not second.create("shards/one", b"second")
    assert second.read("shards/one") == b"first"


def test_the_path_on_a_bucket(
    bucket: str,
    make_config: Callable[..., PipelineConfig],
    open_shared: OpenEngine,
    shared_engine: SharedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(lake=bucket)
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    caption(config, lake, shards, open_shared)
    refresh(config, lake)
    assert lake.exists("catalog.duckdb")
    with open_views(config) as views:
        found = views.execute("SELECT perspective, count(*) FROM captions GROUP BY ALL").fetchall()
        assert sorted(found) == [(name, 8) for name in sorted(config.perspectives.enabled)]
        assert views.execute("SELECT count(*) FROM captions_scene_count WHERE count >= 0").fetchone() == (8,)
    shared_engine.requests = 0
    caption(config, Lake(config.lake), shards, open_shared, run_id="again")
    assert shared_engine.requests == 0
    monkeypatch.setenv(CONFIG_VARIABLE, str(config.file))
    assert check_pipeline() == 0


def test_a_worker_is_seen_through_the_bucket(make_config: Callable[..., PipelineConfig], bucket: str) -> None:
    config = make_config(lake=bucket)
    shards = ingest(config, Lake(bucket))
    with Heartbeat(Lake(bucket), "run", "media", {"media": None}, shards[:1], "me", interval=0.05) as heartbeat:
        heartbeat.watch(lambda: [LookProgress("demo", shards[0].key, "media", None, 8, 5, 1, {"gone": 1}, 2.5)])
        watching = [
            sys.executable,
            "-c",
            "from caption_assets.cli import main; main()",
            "status",
            "--watch",
            "--shards",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
        watch = subprocess.Popen(
            [*watching, "--shards", "--json"],
            env=environment | {CONFIG_VARIABLE: str(config.file)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watch.stdout is not None
        try:
            line = watch.stdout.readline()
            assert line, watch.communicate()
            status = json.loads(line)
            watch.send_signal(signal.SIGINT)
            assert watch.wait(60) == 0
        finally:
            watch.kill()
            output = watch.communicate()
    assert [worker["state"] for worker in status["workers"]] == ["running"], output
    (row,) = [row for row in status["shards"] if row["worker"]]
    assert (row["shard"], row["state"], row["done"], row["failed"]) == (shards[0].key, "running", 5, 1)
    assert read_status(config).workers == []
