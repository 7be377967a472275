"""What ticks cost: on a million sorted keys, on a folder of 100,000 files, and with 100,000 shards planned.

`python -m caption_assets_tests.benchmarks.arrivals [--keys N] [--files N] [--shards N] [--only PART]`. The store is a
stub in a process of its own that lists its keys as S3 does; ticks are half a minute apart by their own clock. A bare
listing with the same client, in the same run, is what a round of the scan is compared with.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caption_assets.arrivals.tick import Outcome
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.sources.base import Item
from caption_assets.sources.bucket import open_store
from caption_assets.sources.planner import plan_bytes
from caption_assets_tests.arrivals.world import Watch
from caption_assets_tests.sources.s3_stub import S3Stub
from caption_assets_tests.sources.servers import s3_environment
from caption_assets_tests.sources.web_server import served

_NEW = 100
_A_DAY = 10_000


class Days:
    """Sorted keys under date prefixes, made from numbers; then some more that arrived."""

    def __init__(self, count: int, new: Any) -> None:
        self._count, self._new = count, new

    def __len__(self) -> int:
        return self._count + int(self._new.value)

    def __getitem__(self, number: int) -> str:
        return f"2026/{number // _A_DAY:04d}/{number % _A_DAY:06d}.jpg"


def _serve(count: int, new: Any, port: Any) -> None:
    with served(S3Stub(Days(count, new)).handle) as found:  # type: ignore[arg-type]
        port.value = found
        time.sleep(1e6)


@contextmanager
def bucket(count: int) -> Iterator[Any]:
    """A stub of so many keys; gives a number of keys that a test may let arrive."""
    spawn = multiprocessing.get_context("spawn")
    new, port = spawn.Value("q", 0), spawn.Value("q", 0)
    server = spawn.Process(target=_serve, args=(count, new, port), daemon=True)
    server.start()
    try:
        while not port.value:
            time.sleep(0.05)
        with s3_environment(f"http://127.0.0.1:{port.value}"):
            yield new
    finally:
        server.kill()


@dataclass
class Timed:
    """Ticks, and what they took."""

    outcomes: list[Outcome]
    seconds: list[float]

    @property
    def longest(self) -> float:
        """Seconds of the slowest one."""
        return max(self.seconds)

    @property
    def items(self) -> int:
        """What they planned."""
        return sum(each.new_items for each in self.outcomes)


def timed(watch: Watch, done: Callable[[Outcome], bool]) -> Timed:
    """Ticks until one is as wanted."""
    found = Timed([], [])
    while not found.outcomes or not done(found.outcomes[-1]):
        started = time.perf_counter()
        found.outcomes.append(watch.tick())
        found.seconds.append(time.perf_counter() - started)
    return found


def bare_listing() -> tuple[int, float]:
    """Keys of the whole bucket, and the seconds it takes to list them one page after the other."""
    store: Any = open_store("s3://b", {}, 32)
    started, count = time.perf_counter(), 0
    for page in store._answers(""):
        count += len(page["Contents"])
    return count, time.perf_counter() - started


def tell(what: str, figure: str, target: str = "") -> None:
    """Print a line."""
    print(f"{what:<58} {figure:>22}   {target}", flush=True)


def megabytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def on_a_bucket(home: Path, keys: int) -> None:
    """A backlog, a round, an idle tick, and arrivals under date prefixes."""
    with bucket(keys) as new:
        count, bare = bare_listing()
        tell(f"bare listing of {count:,} keys", f"{bare:.1f} s")
        watch = Watch(home, kind="bucket", url="s3://b", shard_size=1000)
        backlog = timed(watch, lambda outcome: outcome.cursor.round is None)
        tell(f"backlog of {backlog.items:,} new keys", f"{len(backlog.seconds)} ticks")
        tell("  its longest tick", f"{backlog.longest:.1f} s", "bounded: <= 20 s")
        again = timed(watch, lambda outcome: outcome.cursor.round is None)
        count, bare_again = bare_listing()
        share = sum(again.seconds) / ((bare + bare_again) / 2)
        tell(f"a round without news, {len(again.seconds)} ticks", f"{sum(again.seconds):.1f} s")
        tell("  to a bare listing (mean of before and after)", f"{share:.2f}", "<= 1.3")
        assert again.items == 0
        idle = timed(watch, lambda outcome: True)
        tell("an idle tick", f"{idle.longest:.2f} s", "<= 1 s")
        new.value = _NEW
        found = timed(watch, lambda outcome: True)
        assert found.items == _NEW, found.outcomes
        tell(f"a tick that finds {_NEW} keys under date prefixes", f"{found.longest:.2f} s", "<= 10 s")
        tell("memory", f"{megabytes()} MB", "<= 500 MB")


def on_a_folder(home: Path, files: int) -> None:
    """A first look, an idle tick, and arrivals."""
    folder = home / "in"
    for number in range(files):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04d}").mkdir(parents=True)
        os.close(os.open(folder / f"{number // 1000:04d}/{number:07d}.jpg", os.O_CREAT | os.O_WRONLY))
    watch = Watch(home, kind="folder", path="in", settle_seconds=0, shard_size=1000)
    backlog = timed(watch, lambda outcome: outcome.cursor.round is None)
    tell(f"folder: backlog of {backlog.items:,} files", f"{sum(backlog.seconds):.1f} s")
    tell(f"  the longest of its {len(backlog.seconds)} ticks", f"{backlog.longest:.1f} s", "bounded: <= 20 s")
    idle = timed(watch, lambda outcome: outcome.cursor.round is None)
    tell("  an idle tick, with a whole round", f"{idle.longest:.2f} s", "<= 1 s")
    for number in range(_NEW):
        (folder / f"0000/new-{number}.jpg").write_bytes(b"x")
    found = timed(watch, lambda outcome: True)
    assert found.items == _NEW
    tell(f"  a tick that finds {_NEW} files", f"{found.longest:.2f} s", "<= 10 s")


def on_many_shards(home: Path, shards: int) -> None:
    """Ticks with many plans, once they are known and while they are not."""
    (home / "in").mkdir()
    (home / "in/new.jpg").write_bytes(b"x")
    watch = Watch(home, kind="folder", path="in", settle_seconds=0)
    for number in range(shards):
        shard = Shard("d", number)
        path = Path(watch.lake.path(layout.plan_file(shard)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plan_bytes(shard, [Item(f"/gone/{number}-{item}.jpg", "1", 1) for item in range(10)]))
    reading = timed(watch, lambda outcome: outcome.planned > shards)
    tell(f"{shards:,} shards: plans read in {len(reading.seconds)} ticks, the longest", f"{reading.longest:.1f} s")
    idle = timed(watch, lambda outcome: True)
    tell("  an idle tick", f"{idle.longest:.2f} s", "<= 10 s")
    (home / "in/another.jpg").write_bytes(b"x")
    found = timed(watch, lambda outcome: True)
    assert found.items == 1
    tell("  a tick that finds a picture", f"{found.longest:.2f} s", "<= 10 s")
    tell("  memory", f"{megabytes()} MB", "<= 500 MB")


def main() -> None:
    """All of it, each part in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--only", choices=["bucket", "folder", "shards"])
    given = parser.parse_args()
    parts = {
        "bucket": (on_a_bucket, given.keys),
        "folder": (on_a_folder, given.files),
        "shards": (on_many_shards, given.shards),
    }
    for name, (part, size) in parts.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as home:
                os.environ["CAPTION_ASSETS_CACHE"] = f"{home}/cache"
                process = multiprocessing.get_context("spawn").Process(target=part, args=(Path(home), size))
                process.start()
                process.join()
                if process.exitcode:
                    sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
