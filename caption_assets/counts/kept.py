"""Counts that are kept on the local disk: a row a shard, under the hashes of what was counted.

A file holds the counts of some shards and is never changed, so any number of processes may add files and read them, and
two that count the same shard say the same of it. A row is good for as long as the listing still has its hashes. What
was deleted since is told by marks: 32 bits of the hash of each picture and place that a shard has.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import Tombstones
from caption_assets.sources.cache import cache_folder

_MAKE = f"2-{duckdb.__version__}"
"""Of the files; DuckDB's hashes are in them."""
_MANY_FILES = 12
_ROW_GROUP = 2048
_STRAY_SECONDS = 3600.0
_KEY = "dataset, number, low, high"

LISTED = pa.schema(
    [
        ("dataset", pa.string()),
        ("number", pa.int64()),
        ("shard", pa.string()),
        ("low", pa.uint64()),
        ("high", pa.uint64()),
        ("mask", pa.int64()),  # which terms hold for it
        ("young", pa.bool_()),
    ]
)


class Damaged(Exception):
    """A file could not be read, and was removed."""


class KeptCounts:
    """The counts of one lake.

    Args:
        tombstones: what is deleted now.
    """

    def __init__(self, lake: Lake, tombstones: Tombstones) -> None:
        self._folder = cache_folder("counts", lake, "shards") / _MAKE
        self._folder.mkdir(exist_ok=True)
        self._tombstones = tombstones
        self._deletions = hashlib.sha256("\n".join(tombstones.files).encode()).hexdigest()[:16]

    def select(
        self, connection: duckdb.DuckDBPyConnection, masks: Mapping[int, Collection[str]], empty: pa.Schema
    ) -> None:
        """Create the table `kept`: the rows that hold of what the table `listed` (of `LISTED`) has.

        Args:
            masks: the terms that each mask stands for.
            empty: columns of the table.

        Raises:
            duckdb.IOException: another process has just joined files.
            Damaged: look again.
        """
        connection.register("nothing", empty.empty_table())
        connection.execute("CREATE OR REPLACE TABLE kept AS SELECT * EXCLUDE (marks), 0::BIGINT AS mask FROM nothing")
        self._remember_deletions(connection)
        files = self._files()
        if not files:
            return
        try:
            self._find(connection, files)
            pairs = connection.execute("SELECT DISTINCT mask, terms FROM found").fetchall()
            good = [pair for pair in pairs if set(masks[pair[0]]) <= set(json.loads(pair[1]))]
            table = {"mask": [mask for mask, _ in good], "terms": [terms for _, terms in good]}
            connection.register("good", pa.table(table, pa.schema([("mask", pa.int64()), ("terms", pa.string())])))
            connection.execute(
                f"""INSERT INTO kept BY NAME
                SELECT s.* EXCLUDE (marks, filename, file_row_number), v.mask FROM {_source(files)} s JOIN (
                    FROM found SEMI JOIN good USING (mask, terms)
                    QUALIFY row_number() OVER (PARTITION BY dataset, number) = 1
                ) v USING (filename, file_row_number)"""
            )
            self._tidy(connection, files)
        except (duckdb.InvalidInputException, duckdb.BinderException, ValueError) as error:
            self._remove_damaged(files)
            raise Damaged(str(error)) from error

    def add(self, counted: pa.Table) -> None:
        """Keep rows, which were counted with the tombstones that are known."""
        name = f"{uuid.uuid4().hex}.{self._deletions}.parquet"
        self._put(name, lambda path: pq.write_table(counted, path, compression="zstd", row_group_size=_ROW_GROUP))

    def _files(self) -> list[Path]:
        """The files whose deletions are known."""
        return [
            file for file in sorted(self._folder.glob("*.*.parquet")) if self._deleted(file.name.split(".")[1]).exists()
        ]

    def _find(self, connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
        """Create `found`: the rows that have the listed hashes, and nothing in them was deleted since."""
        spoilt = [(str(file), row) for file in files for row in self._spoilt(connection, file)]
        table = {"filename": [name for name, _ in spoilt], "file_row_number": [row for _, row in spoilt]}
        schema = pa.schema([("filename", pa.string()), ("file_row_number", pa.int64())])
        connection.register("spoilt", pa.table(table, schema))
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE found AS
            SELECT {_KEY}, l.mask, s.terms, s.filename, s.file_row_number
            FROM {_source(files)} s JOIN listed l USING ({_KEY})
            ANTI JOIN spoilt ON spoilt.filename = s.filename AND spoilt.file_row_number = s.file_row_number"""
        )

    def _spoilt(self, connection: duckdb.DuckDBPyConnection, file: Path) -> list[int]:
        """The rows of a file that have something of what was deleted, or taken back, since it was written."""
        stem, before = file.name.split(".")[:2]
        if before == self._deletions:
            return []
        known = self._folder / f"{stem}.{self._deletions}.json"
        with suppress(OSError, ValueError):
            return [int(row) for row in json.loads(known.read_bytes())]
        then, now = (f"read_parquet('{self._deleted(each)}')" for each in (before, self._deletions))
        rows = connection.execute(
            f"""WITH changed AS (
                SELECT DISTINCT (coalesce(a.entry, b.entry) >> 32)::UINTEGER AS mark
                FROM {then} a FULL JOIN {now} b ON a.entry = b.entry WHERE a.entry IS NULL OR b.entry IS NULL
            ) SELECT DISTINCT row FROM (
                SELECT file_row_number AS row, unnest(marks) AS mark FROM {_source([file])}
            ) SEMI JOIN changed USING (mark)"""
        ).fetchall()
        found = [row for (row,) in rows]
        self._put(known.name, lambda path: path.write_text(json.dumps(found)))
        return found

    def _remember_deletions(self, connection: duckdb.DuckDBPyConnection) -> None:
        path = self._deleted(self._deletions)
        if path.exists():
            return
        names = [f"{dataset}|{uri}" for dataset, uri in self._tombstones.uris]
        connection.register("deleted", pa.table({"name": pa.array([*self._tombstones.media_ids, *names], pa.string())}))
        entries = connection.sql("SELECT DISTINCT hash(name) AS entry FROM deleted").to_arrow_table()
        self._put(path.name, lambda temporary: pq.write_table(entries, temporary))

    def _deleted(self, deletions: str) -> Path:
        return self._folder / f"deleted-{deletions}.parquet"

    def _tidy(self, connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
        """Join small files, and those most of whose rows hold no more."""
        sizes = connection.execute(
            f"""SELECT s.filename, count(*), count(f.filename) FROM {_source(files)} s
            LEFT JOIN found f ON f.filename = s.filename AND f.file_row_number = s.file_row_number
            GROUP BY ALL ORDER BY 2"""
        ).fetchall()
        joined = [name for name, rows, good in sizes if good <= rows / 2]
        if len(sizes) > _MANY_FILES:
            joined += [name for name, _, _ in sizes[: len(sizes) - _MANY_FILES // 2] if name not in joined]
        if len(joined) < 2 and not any(good == 0 for _, _, good in sizes):
            return
        old = [Path(name) for name in joined]
        if any(good for name, _, good in sizes if name in joined):
            select = f"""SELECT s.* EXCLUDE (filename, file_row_number) FROM {_source(old)} s JOIN (
                FROM found QUALIFY row_number() OVER (PARTITION BY {_KEY}, terms) = 1
            ) f ON f.filename = s.filename AND f.file_row_number = s.file_row_number"""
            options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}"
            name = f"{uuid.uuid4().hex}.{self._deletions}.parquet"
            self._put(name, lambda path: connection.execute(f"COPY ({select}) TO '{_quoted(path)}' ({options})"))
        for file in old:
            for each in self._folder.glob(f"{file.name.split('.')[0]}.*"):
                each.unlink(missing_ok=True)
        self._remove_remains()

    def _remove_remains(self) -> None:
        """Delete what nobody needs: of other makes, of writers that were killed, deletions that no file knows."""
        for other in self._folder.parent.iterdir():
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        known = {file.name.split(".")[1] for file in self._folder.glob("*.*.parquet")} | {self._deletions}
        for file in self._folder.glob("deleted-*.parquet"):
            if file.stem.removeprefix("deleted-") not in known:
                file.unlink(missing_ok=True)
        for file in self._folder.glob("*.tmp"):
            with suppress(FileNotFoundError):  # its writer has just finished it
                if time.time() - file.stat().st_mtime > _STRAY_SECONDS:
                    file.unlink()

    def _remove_damaged(self, files: Sequence[Path]) -> None:
        for file in files:
            try:
                pq.ParquetFile(file).read()
            except (OSError, ValueError, pa.ArrowException):
                file.unlink(missing_ok=True)

    def _put(self, name: str, write: Callable[[Path], object]) -> None:
        """Make a file, whole or not at all."""
        temporary = self._folder / f"{uuid.uuid4().hex}.tmp"
        try:
            write(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)


def _source(files: Sequence[Path]) -> str:
    names = ", ".join(f"'{_quoted(file)}'" for file in files)
    return f"read_parquet([{names}], filename = true, file_row_number = true)"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
