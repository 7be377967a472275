"""`caption-assets status --watch`: a live view on a terminal, lines elsewhere, and a clean end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import pytest

from caption_assets.config import CONFIG_VARIABLE, PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.heartbeats import Beat, LookProgress
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests.support import bound_of, ingest

_WAIT_SECONDS = 90.0
MakeConfig = Callable[..., PipelineConfig]


def command(*options: str) -> list[str]:
    return [sys.executable, "-c", "from caption_assets.cli import main; main()", "status", "--watch", *options]


def environment(config: PipelineConfig) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"DAGSTER_HOME", "COLUMNS"}}
    return inherited | {CONFIG_VARIABLE: str(config.file), "TERM": "xterm-256color", "PYTHONWARNINGS": "ignore"}


def beat(config: PipelineConfig, shard: Shard, done: int) -> None:
    """A worker says how far it is."""
    (look,) = (each for each in bound_of(config).values() if each.name == "scene_count")
    now = time.time()
    progress = LookProgress("demo", shard.key, look.name, look.fingerprint, 8, done, 0, {}, 2.5)
    stages = [{"stage": look.name, "fingerprint": look.fingerprint}]
    content = Beat("run", "captions", "me-1", stages, now, now + 600, 3.0, looks=[progress]).content()
    Lake(config.lake).write(layout.heartbeat_file("run"), content)


@pytest.fixture
def config(make_config: MakeConfig) -> PipelineConfig:
    """A lake with its media, and a worker."""
    config = make_config()
    shards = ingest(config, Lake(config.lake))
    beat(config, shards[0], 3)
    return config


def read_until(master: int, pattern: str, before: str = "") -> str:
    """What a terminal shows, until it shows this."""
    seen, deadline = before, time.monotonic() + _WAIT_SECONDS
    while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)):
        assert time.monotonic() < deadline, seen[-3000:]
        if select.select([master], [], [], 1.0)[0]:
            seen += os.read(master, 65536).decode(errors="replace")
    return seen


def test_on_a_terminal_it_changes_and_ends_with_ctrl_c(config: PipelineConfig) -> None:
    master, slave = pty.openpty()
    run = subprocess.Popen(
        command("--every", "0.3"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(config),
        start_new_session=True,
    )
    os.close(slave)
    try:
        read_until(master, r"scene_count\s.*3/24\s+2\.5/s")
        beat(config, Shard("demo", 0), 7)
        read_until(master, r"scene_count\s.*7/24\s+2\.5/s")
        os.kill(run.pid, signal.SIGINT)
        assert run.wait(_WAIT_SECONDS) == 0
        rest = b""
        while select.select([master], [], [], 0.2)[0]:
            try:
                rest += os.read(master, 65536)
            except OSError:
                break
        assert b"Traceback" not in rest
        assert b"\x1b[?25h" in rest, "the cursor is back"
    finally:
        run.kill()
        run.wait()
        os.close(master)


@pytest.mark.parametrize("as_json", [False, True])
def test_without_a_terminal_it_prints_lines(config: PipelineConfig, as_json: bool) -> None:
    options = ["--every", "0.3", *(["--json"] if as_json else [])]
    run = subprocess.Popen(
        command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(config)
    )
    assert run.stdout is not None
    assert run.stderr is not None
    try:
        lines = [run.stdout.readline() for _ in range(2)]
        if as_json:
            totals = {each["perspective"]: each for each in json.loads(lines[1])["totals"]}
            assert (totals["scene_count"]["done"], totals["scene_count"]["states"]) == (3, {"running": 1, "pending": 2})
        else:
            assert all("demo: media 24/24 (3 done)" in line and "scene_count 3/24 2.5/s" in line for line in lines)
            assert "\x1b" not in "".join(lines)
        run.send_signal(signal.SIGINT)
        assert run.wait(_WAIT_SECONDS) == 0
        assert run.stderr.read() == ""
    finally:
        run.kill()
        run.communicate()


def test_a_reader_that_has_had_enough_ends_it(config: PipelineConfig) -> None:
    run = subprocess.Popen(
        command("--every", "0.2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(config)
    )
    assert run.stdout is not None
    assert run.stderr is not None
    try:
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(_WAIT_SECONDS) == 0
        assert run.stderr.read() == ""
    finally:
        run.kill()
        run.wait()
        run.stderr.close()
