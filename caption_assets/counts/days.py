"""The table `runs` of the last days, from a copy on the local disk: a run's files are small, many, and never change."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake
from caption_assets.sources.cache import cache_folder

_FILE = pa.field("file", pa.string())
_SCHEMA = tables.RUNS.append(_FILE)
_GROWING = timedelta(days=3)
"""A day is that of a run's start on a shard: after so long, none is added to it."""
_ENOUGH = 50
"""Runs of each perspective, as the rates of the view `stale` want them."""
_AT_ONCE = 1_000
_READERS = 16


class RunsUnread(Exception):
    """There was no time to read all; what was read is kept."""


def recent_runs(lake: Lake, perspectives: Collection[str], seconds: float = inf) -> pa.Table:
    """Rows of `runs`: all of the last days, and of earlier ones as many as it takes to know what captions take.

    Raises RunsUnread after so many seconds.
    """
    folder = cache_folder("counts", lake, "runs")
    until, growing = time.monotonic() + seconds, (datetime.now(UTC) - _GROWING).strftime("%Y-%m-%d")
    found = [tables.RUNS.empty_table()]
    known = dict.fromkeys(perspectives, 0)
    more = 2  # what began on the day before may have ended later
    for day in sorted((name for name in lake.list(layout.RUNS) if name != "_"), reverse=True):
        more -= day < growing and min(known.values(), default=_ENOUGH) >= _ENOUGH
        if not more:
            break
        rows = _day(lake, day, folder / f"{day}.parquet", until)
        found.append(rows.drop_columns([_FILE.name]))
        done = rows.filter((pc.field("step") == "captions") & (pc.field("done") > 0))
        for each in done["perspective"].value_counts().to_pylist():
            if each["values"] in known:
                known[each["values"]] += each["counts"]
    return pa.concat_tables(found)


def _day(lake: Lake, day: str, copy: Path, until: float) -> pa.Table:
    names = [name for name in lake.list(f"{layout.RUNS}/{day}") if name.endswith(".parquet")]
    rows = _SCHEMA.empty_table()
    with suppress(OSError, ValueError, pa.ArrowException):
        rows = pq.read_table(copy, schema=_SCHEMA)
        rows = rows.filter(pc.is_in(rows["file"], pa.array(names, pa.string())))
    new = sorted(set(names) - set(rows["file"].unique().to_pylist()))
    read = [rows]
    with ThreadPoolExecutor(_READERS) as pool:
        while new and (len(read) == 1 or time.monotonic() < until):  # some of them whatever the time
            batch, new = new[:_AT_ONCE], new[_AT_ONCE:]
            read += pool.map(lambda name: _file(lake, day, name), batch)
    rows = pa.concat_tables(read).combine_chunks()
    if len(read) > 1:
        _keep(rows, copy)
    if new:
        raise RunsUnread(f"{len(new):,} files of runs of {day} are still to be read")
    return rows


def _file(lake: Lake, day: str, name: str) -> pa.Table:
    try:
        found = lake.read_table(f"{layout.RUNS}/{day}/{name}")
    except FileNotFoundError:
        return _SCHEMA.empty_table()
    rows = tables.conform(found, tables.RUNS)
    return rows.append_column(_FILE, pa.array([name] * rows.num_rows, pa.string()))


def _keep(rows: pa.Table, copy: Path) -> None:
    """Store a day's rows; of two processes the last one's stay, and what they lack is read again."""
    temporary = copy.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        pq.write_table(rows, temporary, compression="zstd")
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)
