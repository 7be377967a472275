"""What ticks cost: on a million sorted keys, on a folder of a million files, and with 100,000 shards registered.

`python -m caption_assets_tests.benchmarks.arrivals [--keys N] [--files N] [--shards N] [--only PART]`. The store is a
stub in a process of its own that lists its keys as S3 does; ticks are half a minute apart by their own clock. A bare
listing in the same run is what a round of the scan is compared with: of a bucket 100,000 keys by s3fs' client as it
is, as many side by side as the scan has, and by the scan's own, whose pages are read by less code; of a folder all of
it, by fsspec and by `os.scandir` with a `stat` of each file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import dagster as dg
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.tick import Outcome
from caption_assets.captioning.catalog import refresh
from caption_assets.definitions import build_defs
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.partitions import SHARDS
from caption_assets.resources import PipelineResource
from caption_assets.sources.bucket import open_store
from caption_assets_tests import resident
from caption_assets_tests.arrivals.world import Watch
from caption_assets_tests.sources.s3_stub import S3Stub
from caption_assets_tests.sources.servers import s3_environment
from caption_assets_tests.sources.web_server import served

_NEW = 100
_SIDE_BY_SIDE = 4
_ROUNDS = 5
_SOME = 100_000
_A_DAY = 10_000


class Days:
    """Sorted keys under date prefixes, made from numbers; then some more that arrived."""

    def __init__(self, count: int, new: Any) -> None:
        self._count, self._new = count, new

    def __len__(self) -> int:
        return self._count + int(self._new.value)

    def __getitem__(self, number: int) -> str:
        return self.key(number)

    @staticmethod
    def key(number: int) -> str:
        """A key by its number."""
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


def bare_listing(client: Any, keys: int) -> float:
    """Seconds a key that a plain loop of `list_objects_v2` takes, several side by side, as many as the scan has."""
    starts = range(0, keys, -(-keys // _SIDE_BY_SIDE))

    def listing(start: int) -> int:
        name, last = Days.key(start - 1) if start else "", Days.key(min(start + starts.step, keys) - 1)
        request, count = {"Bucket": "b", "StartAfter": name}, 0
        while True:
            page = client.call_s3("list_objects_v2", MaxKeys=1000, **request)
            count += sum(1 for each in page["Contents"] if each["Key"] <= last)
            if not page["IsTruncated"] or page["Contents"][-1]["Key"] >= last:
                return count
            request["ContinuationToken"] = page["NextContinuationToken"]

    started = time.perf_counter()
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        counted: int = sum(pool.map(listing, starts))
    assert counted == keys, counted
    return (time.perf_counter() - started) / keys


def clients() -> tuple[Any, Any]:
    """S3's client as s3fs makes it, and as the scan has it: with a reader of pages of its own."""
    store: Any = open_store("s3://b", {}, 32)
    return s3fs.S3FileSystem(skip_instance_cache=True), store._fs


def bare_walk(folder: Path, files: int) -> tuple[float, float]:
    """Seconds that fsspec takes to list a folder of folders with sizes and times, and a loop of `os.scandir`."""
    found, started = 0, time.perf_counter()
    for _, _, some in fsspec.filesystem("file").walk(str(folder), detail=True):
        found += sum(each["size"] >= 0 and each["mtime"] > 0 for each in some.values())
    by_fsspec = time.perf_counter() - started
    for entry in os.scandir(folder):
        with os.scandir(entry.path) as entries:
            found += sum((status := each.stat()).st_size >= 0 and status.st_mtime_ns > 0 for each in entries)
    assert found == 2 * files, found
    return by_fsspec, time.perf_counter() - started - by_fsspec


def spread(figures: Sequence[float]) -> str:
    """The median, the least and the most."""
    return f"{median(figures):.2f} ({min(figures):.2f}-{max(figures):.2f})"


def tell(what: str, figure: str, target: str = "") -> None:
    """Print a line."""
    print(f"{what:<58} {figure:>22}   {target}", flush=True)


def on_a_bucket(home: Path, keys: int) -> None:
    """A backlog, a round, an idle tick, and arrivals under date prefixes."""
    with bucket(keys) as new:
        plain, own = clients()
        some = min(keys, _SOME)
        bare = [bare_listing(plain, some)]
        tell(f"bare listing by s3fs' own client, {_SIDE_BY_SIDE} at once", f"{bare[0] * 1e6:.1f} s a million")
        fast = [bare_listing(own, some)]
        tell("  by the scan's client", f"{fast[0] * 1e6:.1f} s a million")
        watch = Watch(home, kind="bucket", url="s3://b", shard_size=1000)
        backlog = timed(watch, lambda outcome: outcome.cursor.round is None)
        assert backlog.items == keys
        tell(f"backlog of {backlog.items:,} new keys", f"{len(backlog.seconds)} ticks, {sum(backlog.seconds):.0f} s")
        tell("  its longest tick", f"{backlog.longest:.1f} s", "bounded: <= 20 s")
        idle = timed(watch, lambda outcome: outcome.cursor.round is None)
        assert idle.items == 0
        seconds = sum(idle.seconds)
        fast.append(bare_listing(own, some))
        bare.append(bare_listing(plain, some))
        tell(f"a round without news, {len(idle.seconds)} idle ticks", f"{seconds:.1f} s")
        for what, each in (("s3fs' own client", bare), ("the scan's client", fast)):
            target = "<= 1.3" if each is bare else ""
            tell(f"  to a bare listing by {what}, before and after", f"{seconds / keys / mean(each):.2f}", target)
        tell("an idle tick, the longest", f"{idle.longest:.2f} s", "<= 1 s")
        tell("  the mean", f"{mean(idle.seconds):.2f} s")
        new.value = _NEW
        found = timed(watch, lambda outcome: True)
        assert found.items == _NEW, found.outcomes
        tell(f"a tick that finds {_NEW} keys under date prefixes", f"{found.longest:.2f} s", "<= 10 s")
        tell("memory", f"{round(resident.most())} MB", "<= 500 MB")


def on_a_folder(home: Path, files: int) -> None:
    """A first look, idle ticks, and arrivals."""
    folder = home / "in"
    for number in range(files):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04d}").mkdir(parents=True)
        os.close(os.open(folder / f"{number // 1000:04d}/{number:07d}.jpg", os.O_CREAT | os.O_WRONLY))
    watch = Watch(home, kind="folder", path="in", settle_seconds=0, shard_size=1000)
    backlog = timed(watch, lambda outcome: outcome.cursor.round is None)
    assert backlog.items == files
    tell(f"folder: backlog of {backlog.items:,} files", f"{len(backlog.seconds)} ticks, {sum(backlog.seconds):.0f} s")
    tell("  its longest tick", f"{backlog.longest:.1f} s", "bounded: <= 20 s")
    first = timed(watch, lambda outcome: outcome.cursor.round is None)
    tell(f"  a round that learns how folders are, {len(first.seconds)} ticks", f"{sum(first.seconds):.1f} s")
    rounds, ratios = [first], []
    for _ in range(_ROUNDS):
        bare = [bare_walk(folder, files)]
        rounds.append(timed(watch, lambda outcome: outcome.cursor.round is None))
        bare.append(bare_walk(folder, files))
        ratios.append([sum(rounds[-1].seconds) / mean(each) for each in zip(*bare, strict=True)])
    assert not any(each.items for each in rounds)
    idle = rounds[-1]
    tell(f"  a round without news, the last, {len(idle.seconds)} idle ticks", f"{sum(idle.seconds):.1f} s")
    by_fsspec, by_loop = zip(*ratios, strict=True)
    tell("    to a bare listing before and after: os.scandir and stat", f"{spread(by_loop)}", "<= 1.3")
    tell("    by fsspec", f"{spread(by_fsspec)}")
    tell("  an idle tick, the longest", f"{max(each.longest for each in rounds):.2f} s", "<= 1 s")
    for number in range(_NEW):
        (folder / f"{number:04d}").mkdir(exist_ok=True)
        (folder / f"{number:04d}/new.jpg").write_bytes(b"x")
    found = timed(watch, lambda outcome: True)
    assert found.items == _NEW, found.outcomes
    tell(f"  a tick that finds {_NEW} files in as many folders", f"{found.longest:.2f} s", "<= 10 s")
    for number in range(_NEW):
        (folder / f"{number:04d}/new.jpg").unlink()
    left = timed(watch, lambda outcome: outcome.marked)
    tell(f"  as many gone: told in {len(left.seconds)} ticks, the longest", f"{left.longest:.2f} s", "<= 10 s")
    tell("  memory", f"{round(resident.most())} MB", "<= 500 MB")


def plan(watch: Watch, shards: int) -> list[Shard]:
    """Write plans of ten items each, as small as they can be."""
    made, planned_at = [Shard("d", number) for number in range(shards)], datetime.now(UTC)
    for shard in made:
        uris = [f"/gone/{shard.number}-{item}.jpg" for item in range(10)]
        values = ["d", shard.key, None, "1", 1, None, "{}", planned_at]
        columns = [
            pa.array(uris if field.name == "uri" else [value] * 10, field.type)
            for field, value in zip(tables.PLAN, values, strict=True)
        ]
        path = Path(watch.lake.path(layout.plan_file(shard)))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, tables.PLAN), path, use_dictionary=False, write_statistics=False)
    return made


def on_many_shards(home: Path, shards: int) -> None:
    """Ticks with many plans, once they are known and while they are not; then those of the sensor itself."""
    (home / "in").mkdir()
    (home / "in/new.jpg").write_bytes(b"x")
    watch = Watch(home, kind="folder", path="in", settle_seconds=0)
    planned = plan(watch, shards)
    reading = timed(watch, lambda outcome: outcome.planned > shards)
    tell(f"{shards:,} shards: plans read in {len(reading.seconds)} ticks, the longest", f"{reading.longest:.1f} s")
    idle = timed(watch, lambda outcome: True)
    tell("  an idle tick", f"{idle.longest:.2f} s", "<= 10 s")
    tell("  memory", f"{round(resident.most())} MB", "<= 500 MB")
    (home / "dagster").mkdir()
    instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
    instance.add_dynamic_partitions(SHARDS, [shard.key for shard in [*planned, Shard("d", shards)]])
    defs = build_defs(watch.config)
    resources = {"pipeline": PipelineResource(config_file=str(watch.config.file))}
    cursor = Cursor(handed_over=shards).dump()
    for new in range(2):
        for number in range(new):
            (home / f"in/another-{number}.jpg").write_bytes(b"x")
        context = dg.build_sensor_context(instance, cursor, definitions=defs, resources=resources)
        started = time.perf_counter()
        result: Any = defs.resolve_sensor_def("arrivals_d")(context)
        seconds = time.perf_counter() - started
        assert isinstance(result, dg.SensorResult) == bool(new), result
        what = "that finds a picture and launches a run" if new else "that finds nothing"
        tell(f"  all registered: a tick of the sensor {what}", f"{seconds:.2f} s", "<= 10 s" if new else "<= 1 s")
    started = time.perf_counter()
    refresh(watch.config, watch.lake)
    tell("  what a tick that marks items as gone adds: views made anew", f"{time.perf_counter() - started:.2f} s")
    tell("  memory, with DuckDB's", f"{round(resident.most())} MB")


def main() -> None:
    """All of it, each part in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)
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
