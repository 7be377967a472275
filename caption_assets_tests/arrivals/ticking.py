"""A daemon's tick in a process that may be killed: the state that a daemon keeps is files, here."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from caption_assets.arrivals import queue
from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.handing import to_hand_over
from caption_assets.arrivals.tick import tick
from caption_assets.config import load_config
from caption_assets.lake import tables
from caption_assets.lake.store import Lake


def ticks(root: str, *minutes: str) -> None:
    """Ticks, so many minutes from now; each does what a daemon does with what the sensor asks for."""
    os.environ["CAPTION_ASSETS_CACHE"] = f"{root}/cache"
    queue.MOST, queue.HIDDEN_SECONDS = 1, 1  # a killed tick's messages come again at once
    config = load_config(Path(root) / "pipeline.yaml")
    lake, daemon = Lake(config.lake), Path(root) / "daemon"
    lake.remove_strays()
    for each in minutes:
        stored = daemon / "cursor"
        cursor = Cursor.parse(stored.read_text() if stored.exists() else None)
        outcome = tick(config, lake, "d", cursor, tables.now() + timedelta(minutes=float(each)))
        assert outcome.problem is None
        waiting = to_hand_over(lake, "d", outcome)
        for shard in waiting:
            (daemon / f"registered-{shard.key}").write_text("")
        for shard in waiting:  # a run key is taken once
            (daemon / f"launched-{shard.key}").write_text("")
        if waiting:
            cursor.handed_over = waiting[-1].number
        (daemon / "cursor.tmp").write_text(cursor.dump())
        (daemon / "cursor.tmp").replace(stored)
