"""Real processes that work on a lake, and die there: at an instant, or before their nth change to its files."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import caption_assets.media.deletion  # imported once, by the server that the processes are forked from
import caption_assets.media.shard
from caption_assets.config import Media
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.folder import FolderSource
from caption_assets_tests.media import world

MEDIA = Media(max_pixels=4096)
_CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.mkdir"})
_DEADLINE_SECONDS = 100.0

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "scipy.fftpack", __name__])


def make_media(root: str, folder: str) -> None:
    """What the media asset does with a shard."""
    lake = Lake(root)
    lake.remove_strays()
    caption_assets.media.shard.build_media(lake, world.SHARD, FolderSource(Path(folder)), MEDIA, f"run-{os.getpid()}")


def delete(root: str, *media_ids: str) -> None:
    """What the delete command does."""
    lake = Lake(root)
    lake.remove_strays()
    planned = caption_assets.media.deletion.plan_deletion(lake, media_ids)
    caption_assets.media.deletion.delete(lake, planned, "a test", "tester", f"delete-{os.getpid()}")


def complete(root: str, shard: str) -> None:
    """What a caption run does before it looks for work."""
    lake = Lake(root)
    lake.remove_strays()
    caption_assets.media.deletion.complete_deletions(lake, Shard.parse(shard), f"captions-{os.getpid()}")


def run(work: Callable[..., None], *arguments: str, seconds: float | None = None, step: int = 0) -> int:
    """Do work in a process of its own; returns its exit code, -9 when it was killed.

    Args:
        work: one of the functions above; its first argument is the lake.
        seconds: kill it after this long.
        step: let it die before this change to the lake's files.
    """
    process = _processes.Process(target=_do, args=(step, work, *arguments))
    process.start()
    process.join(_DEADLINE_SECONDS if seconds is None else seconds)
    if process.exitcode is None:
        assert seconds is not None, "it did not end"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def deaths(template: Path, lake: Path, work: Callable[..., None], *arguments: str, first: int = 1) -> Iterator[int]:
    """Copies of a lake on which work died before its first change, its second, ... up to the last one's number."""
    for step in itertools.count(first):
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(template, lake)
        code = run(work, str(lake), *arguments, step=step)
        if not code:
            return
        assert code == -signal.SIGKILL
        age_scratch(lake)
        yield step


def age_scratch(lake: Path) -> None:
    """Let scratch files be older than they may be."""
    for file in (lake / ".scratch").glob("*"):
        os.utime(file, (0, 0))


def date_segments(lake: Path, *, seconds_ago: float) -> None:
    """Let segments have been written so long ago: aged scratch files may be the same files."""
    written = time.time() - seconds_ago
    for file in lake.rglob("*.tar"):
        os.utime(file, (written, written))


def _do(step: int, work: Callable[..., None], root: str, *arguments: str) -> None:
    if step:
        _die_before(step, root)
    work(root, *arguments)


def _die_before(step: int, root: str) -> None:
    left = [step]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in _CHANGES) and any(str(path).startswith(root) for path in arguments[:2]):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
