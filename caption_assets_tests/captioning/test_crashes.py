"""Killed for real, and run twice at once: the lake ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.demo.scenes import write_scenes
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets.sources.planner import planned_shards
from caption_assets_tests.captioning.processes import dagster_job
from caption_assets_tests.support import bound_of, ingest

MakeConfig = Callable[..., PipelineConfig]
_DEADLINE_SECONDS = 240.0
_PICTURES = 320

_CAPTION = """
import sys
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
config = load_config(sys.argv[1])
bound = bind_perspectives(config)
run = CaptionRun(config, Lake(config.lake), list(bound.values()), bound, [Shard.parse(sys.argv[2])], sys.argv[3],
                 tell=lambda line: print(line, flush=True))
for report in run:
    print("DONE", sum(look.done for look in report.looks.values()), flush=True)
"""


@pytest.mark.slow
def test_a_killed_run_is_taken_up_where_its_rows_end(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_scenes(folder, _PICTURES, 99)
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder), "shard_size": 1000}})
    lake = Lake(config.lake)
    planning = dagster_job(config, tmp_path, "ingest_job", "demo")
    assert planning.wait(_DEADLINE_SECONDS) == 0
    (shard,) = planned_shards(lake, "demo")

    first = dagster_job(config, tmp_path, "caption_job", shard.key)
    _wait_for(lambda: bool(_rows(config, lake, shard)), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = _rows(config, lake, shard)
    assert 0 < len(kept) < 4 * _PICTURES, "killed in the middle"

    second = dagster_job(config, tmp_path, "caption_job", shard.key)
    output = second.communicate(timeout=_DEADLINE_SECONDS)[0]
    assert second.returncode == 0, output[-3000:]
    after = _rows(config, lake, shard)
    media_ids = {row["media_id"] for row in read_index(lake, shard)}
    assert after.keys() == {(name, media_id) for name in bound_of(config) for media_id in media_ids}
    assert {key: after[key] for key in kept} == kept, "what was written is kept, not computed again"
    with_runs = lake.list("runs")
    assert [day for day in with_runs if day != "_"], "the run is on record"


@pytest.mark.slow
def test_two_runs_on_one_shard_at_once_leave_one_row_each(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    lake = Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _CAPTION, str(config.file), shard.key, name],
            env=os.environ | {"CAPTION_ASSETS_LOCKS": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    printed = [run.communicate(timeout=_DEADLINE_SECONDS)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    done = sorted(int(line.split()[1]) for text in printed for line in text.splitlines() if line.startswith("DONE"))
    assert done == [0, 4 * 8], f"{printed}: the one that waited for the device found the work done"
    for bound in bound_of(config).values():
        assert len(rows.read_rows(lake, bound, shard)) == 8


def _rows(config: PipelineConfig, lake: Lake, shard: Shard) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (name, media_id): row
        for name, bound in bound_of(config).items()
        for media_id, row in rows.read_rows(lake, bound, shard).items()
    }


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "the run wrote nothing"
        time.sleep(0.1)
