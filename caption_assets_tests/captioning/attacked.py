"""What the attack tests attack: the whole path at domain level, in a process of its own.

Started as a module it takes a pipeline file and a run id.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from multiprocessing.synchronize import Event

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import refresh
from caption_assets.config import load_config
from caption_assets.engine import openai_engine as openai_engine  # loaded before the fork
from caption_assets.engine.loading import open_engine
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards
from caption_assets_tests.support import bound_of, caption, ingest


def whole_path(pipeline: str, run_id: str, flush_rows: int | None = None) -> None:
    """Plan, make media, caption and refresh the catalog, for all shards of the dataset `demo`."""
    rows.FLUSH_ROWS = flush_rows or rows.FLUSH_ROWS
    config = load_config(pipeline)
    lake = Lake(config.lake)
    lake.remove_strays()
    shards = ingest(config, lake)
    caption(config, lake, shards, open_engine, run_id=run_id)
    refresh(config, lake)


def forked(pipeline: str, run_id: str, flush_rows: int, started: Event, last: int | None) -> None:
    """The whole path in a process group of its own.

    Args:
        last: the file to be named, linked or removed at which the process is killed; for ever: None.
    """
    os.setsid()
    if last is not None:
        _die_at(last)
    started.set()
    whole_path(pipeline, run_id, flush_rows)


def _die_at(last: int) -> None:
    left = count(last, -1)

    def heed(event: str, arguments: tuple[object, ...]) -> None:
        del arguments
        if event in {"os.rename", "os.link", "os.remove"} and next(left) == 1:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(heed)


def reseal(pipeline: str, started: Event) -> None:
    """Append a part to the first shard's rows of one perspective and seal it away, for ever."""
    config = load_config(pipeline)
    lake = Lake(config.lake)
    bound, shard = bound_of(config)["scene_count"], planned_shards(lake, "demo")[0]
    started.set()
    for number in count():
        there = list(rows.read_rows(lake, bound, shard).values())
        rows.PartWriter(lake, f"again{number}").write([rows.Part(bound, shard, there)])
        rows.seal(lake, bound, shard, f"again{number}")


if __name__ == "__main__":
    whole_path(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
