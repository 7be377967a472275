"""What the processes of the race tests do; they are started anew, so that nothing is shared but the lake."""

import os
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from caption_assets.lake.store import Lake


def create_all(root: str, who: int, count: int, start: Barrier, answers: Any) -> None:
    """Claim names in the same order as the others; tell which were ours."""
    lake = Lake(root)
    start.wait()
    answers.put((who, [name for name in range(count) if lake.create(f"claims/{name}", str(who).encode() * 1000)]))


def rewrite(root: str, size: int, start: Barrier) -> None:
    """Replace one file for ever, each time with one byte repeated."""
    lake = Lake(root)
    start.wait()
    value = 0
    while True:
        lake.write("hot", bytes([value]) * size)
        value = (value + 1) % 256


def die_writing(root: str, how: str) -> None:
    """Be killed between the bytes and the name."""
    lake = Lake(root)
    if how == "place":
        with lake.place("media/half.tar") as file, Path(file).open("wb") as handle:
            handle.write(b"half")
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)  # the last thing before the name is given
    (lake.write if how == "write" else lake.create)("media/half.tar", b"half")
