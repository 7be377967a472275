"""Parquet in memory: what Arrow's threads hold, and many files as a dataset has them."""

from __future__ import annotations

import threading
from collections import Counter
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from caption_assets.lake.parquet import parquet_file, read_columns
from caption_assets.lake.store import Lake, table_bytes

TABLE = pa.table({f"c{number}": ["x" * 50] * 100 for number in range(40)})
READS = 300


class Watched(bytes):
    """Bytes that tell by which thread they were let go of."""

    by: ClassVar[Counter[bool]] = Counter()

    def __del__(self) -> None:
        self.by[threading.current_thread() is threading.main_thread()] += 1


def test_arrows_threads_let_go_of_nothing_of_pythons() -> None:
    data = table_bytes(TABLE)
    Watched.by.clear()
    for _ in range(READS):
        assert parquet_file(Watched(data)).read().num_rows == TABLE.num_rows
    assert Watched.by == {True: READS}


def test_nor_where_many_files_are_read() -> None:
    data, threads = table_bytes(TABLE), set()

    class Named(bytes):
        def __del__(self) -> None:
            threads.add(threading.current_thread().name.partition("-")[0])

    for _ in range(READS):
        assert read_columns(["a", "b"], lambda path: Named(data), TABLE.schema, ["c1"]).num_rows == 200
    assert threads <= {"ThreadPoolExecutor", "MainThread"}  # a thread that Python did not start is a "Dummy"


def test_many_files_are_one_table(lake: Lake) -> None:
    schema = pa.schema([("key", pa.string()), ("size", pa.int64()), ("later", pa.string())])
    lake.write("a.parquet", table_bytes(pa.table({"key": ["1", "2"], "size": [1, 2]})))
    lake.write("b.parquet", table_bytes(pa.table({"size": [3], "key": ["3"], "later": ["x"], "other": [0]})))
    paths = ["a.parquet", "b.parquet"]
    found = lake.read_columns(paths, schema, ["key", "later", "__filename"], pc.field("size") >= 2)
    assert found.to_pylist() == [
        {"key": "2", "later": None, "__filename": lake.path("a.parquet")},
        {"key": "3", "later": "x", "__filename": lake.path("b.parquet")},
    ]
    only_names = lake.read_columns(paths, schema, ["__filename"])
    assert only_names["__filename"].to_pylist() == [lake.path(path) for path in ("a.parquet",) * 2 + ("b.parquet",)]
    assert lake.read_columns(paths, schema, ["key"], pc.field("size") > 9).num_rows == 0
    with pytest.raises(FileNotFoundError):
        lake.read_columns([*paths, "gone.parquet"], schema, ["key"])
