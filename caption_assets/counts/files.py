"""Reads what shards have of plans, media, captions and failures: just the columns that are counted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from caption_assets.lake import layout, tables
from caption_assets.lake.definition import Wanted
from caption_assets.lake.layout import Shard
from caption_assets.lake.object_store import is_s3, list_objects
from caption_assets.lake.parquet import parquet_file
from caption_assets.lake.store import Lake
from caption_assets.lake.vanishing import again_at_once

_READERS = {True: 4, False: 16}
"""Files at once, where the lake is on a disk, and elsewhere."""
_IN_ORDER = 1_000_000
"""From this number on the order of keys is not that of numbers."""
_NAMES = ("media_id", "dataset", "shard", "perspective", "fingerprint", "run_id", "reused_from")
_DIGESTS = ("input_digest", "output_digest")

SCHEMAS = {
    "plans": pa.schema([tables.PLAN.field(name) for name in ("dataset", "shard", "uri", "etag", "planned_at")]),
    "indexes": pa.schema(
        [
            tables.MEDIA.field(name)
            for name in ("media_id", "dataset", "shard", "uri", "etag", "normalisation", "created_at")
        ]
    ),
    "stored": pa.schema(
        [*(pa.field(name, pa.string()) for name in (*_NAMES, *_DIGESTS)), pa.field("created_at", tables.TIMESTAMP)]
    ),
    "failed": pa.schema([field for field in tables.FAILURES if field.name != "partial"]),
}
"""Of the tables that are read."""


@dataclass(frozen=True)
class Holding:
    """A shard, and what it has."""

    shard: Shard
    captions: Sequence[tuple[str, str]]
    """Perspective and form."""
    failures: Sequence[str]
    """Stages."""


class FileReader:
    """Reads the files of shards.

    Args:
        wanted: who reads whose outputs.
    """

    def __init__(self, lake: Lake, wanted: Mapping[str, Wanted]) -> None:
        self._lake = lake
        read = {name for each in wanted.values() for name in each.inputs}
        needless = {
            name: {"input_digest": not each.inputs, "output_digest": name not in read} for name, each in wanted.items()
        }
        self._unread = {name: [column for column, is_so in each.items() if is_so] for name, each in needless.items()}
        self._pool = ThreadPoolExecutor(_READERS[lake.local])

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()

    @again_at_once
    def read(self, shards: Sequence[Holding]) -> dict[str, pa.Table]:
        """Tables of `SCHEMAS`. Raises FileNotFoundError where the lake changes faster than it can be read."""
        failures = [layout.failures_file(stage, each.shard) for each in shards for stage in each.failures]
        return {
            "plans": self._tables("plans", [layout.plan_file(each.shard) for each in shards]),
            "indexes": self._tables("indexes", [layout.media_index(each.shard) for each in shards]),
            "stored": self._stored(shards),
            "failed": self._tables("failed", failures),
        }

    def _tables(self, name: str, paths: Sequence[str]) -> pa.Table:
        """Of the files that there are."""

        def read(path: str) -> pa.Table:
            try:
                return self._table(path, SCHEMAS[name])
            except FileNotFoundError:
                return SCHEMAS[name].empty_table()

        return pa.concat_tables([SCHEMAS[name].empty_table(), *self._pool.map(read, paths)])

    def _stored(self, shards: Sequence[Holding]) -> pa.Table:
        """Rows of captions, with digests only where something is made of them."""
        places: dict[tuple[str, str, str], list[Shard]] = {}
        for each in shards:
            for name, form in each.captions:
                places.setdefault((name, form, each.shard.dataset), []).append(each.shard)
        listed = self._pool.map(lambda place: [*self._names(place[0], place[1], places[place])], places)
        files = [
            (path, self._unread.get(place[0], ()))
            for place, paths in zip(places, listed, strict=True)
            for path in paths
        ]
        found = self._pool.map(lambda file: self._table(file[0], SCHEMAS["stored"], file[1]), files)
        return pa.concat_tables([SCHEMAS["stored"].empty_table(), *found])

    def _table(self, path: str, schema: pa.Schema, without: Collection[str] = ()) -> pa.Table:
        """Columns of a file; those that it lacks, or that are not to be read, are null."""
        lake = self._lake
        with pq.ParquetFile(lake.path(path)) if lake.local else parquet_file(lake.read(path)) as file:
            there = {name for name in file.schema_arrow.names if name not in without}
            table = file.read([name for name in schema.names if name in there], use_threads=False)
        return tables.conform(table, schema)

    def _names(self, name: str, form: str, shards: Sequence[Shard]) -> Iterator[str]:
        """The files of a form's rows."""
        first, last = min(shards), max(shards)
        if is_s3(self._lake.fs) and last.number < _IN_ORDER and last.number - first.number < 4 * len(shards):
            yield from self._names_between(layout.fingerprint_folder(name, form), first, last, frozenset(shards))
            return
        for shard in shards:
            folder = layout.captions_folder(name, form, shard)
            yield from (f"{folder}/{each}" for each in self._lake.list(folder) if each.endswith(".parquet"))

    def _names_between(self, form: str, first: Shard, last: Shard, shards: Collection[Shard]) -> Iterator[str]:
        """One listing of neighbours, instead of one for each."""
        folder = f"{form}/dataset={first.dataset}"
        base = self._lake.path(folder) + "/"
        for path, _ in list_objects(self._lake.fs, self._lake.path(folder), after=f"shard={first.key}"):
            relative = path.removeprefix(base)
            key = relative.partition("/")[0].removeprefix("shard=")
            if key > last.key:
                return
            if path.endswith(".parquet") and Shard.parse(key) in shards:
                yield f"{folder}/{relative}"
