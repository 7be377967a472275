"""Caption rows in the lake: read with duplicates resolved, appended in parts, sealed into one file a shard."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_at_once
from caption_assets.perspectives import arrow_type

FLUSH_ROWS = 200
FLUSH_SECONDS = 10.0
_NO_ROWS = pa.schema([("media_id", pa.string()), ("created_at", tables.TIMESTAMP)]).empty_table()
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def schema_of(bound: BoundPerspective) -> pa.Schema:
    """Columns of a perspective's caption table."""
    return tables.captions_schema(arrow_type(bound.output))


def output_digest(output: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of an output's canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(output).encode()).hexdigest()


def input_digest(digests: Mapping[str, str]) -> str | None:
    """SHA-256 (hex) over `name=output_digest` of what a perspective read, by name; None where it reads nothing."""
    if not digests:
        return None
    return hashlib.sha256(",".join(f"{name}={digests[name]}" for name in sorted(digests)).encode()).hexdigest()


class Digests(NamedTuple):
    """Of what a row was made from: a row of the same form with the same ones says the same."""

    inputs: str | None
    source: str | None
    """Over the source columns that the prompt depends on; None where there are none."""


NOTHING_READ = Digests(None, None)


def source_digest(values: Mapping[str, Any]) -> str | None:
    """SHA-256 (hex) of the canonical JSON of the source columns that a prompt depends on."""
    return output_digest(values) if values else None


def read_rows(
    lake: Lake, bound: BoundPerspective, shard: Shard, columns: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """A shard's rows of a perspective's present form, by media_id: the latest where there are several."""
    wanted = None if columns is None else list(dict.fromkeys(["media_id", "created_at", *columns]))
    return read_form(lake, bound.name, bound.fingerprint, shard, wanted)


def read_form(
    lake: Lake, perspective: str, fingerprint: str, shard: Shard, columns: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """A shard's rows of any form of a perspective, by media_id: the latest where there are several.

    `columns`, if given, must hold media_id and created_at.
    """
    folder = layout.captions_folder(perspective, fingerprint, shard)
    found, _ = _read_folder(lake, folder, columns)
    return {row["media_id"]: row for row in _latest(found).to_pylist()}


def contents_digest(lake: Lake, bound: BoundPerspective, shard: Shard) -> str:
    """First 16 hex digits of a SHA-256 over a shard's outputs: the same for the same captions."""
    stored = read_rows(lake, bound, shard, ["output_digest"])
    lines = "\n".join(f"{media_id} {stored[media_id]['output_digest']}" for media_id in sorted(stored))
    return hashlib.sha256(f"{bound.fingerprint}\n{lines}".encode()).hexdigest()[:16]


def find_elsewhere(
    lake: Lake, bound: BoundPerspective, shard: Shard, media_ids: Sequence[str]
) -> dict[tuple[str, Digests], dict[str, Any]]:
    """Rows for these pictures that other shards already paid for, by media_id and what they were made from. Best
    effort."""
    if not media_ids:
        return {}
    folder = layout.fingerprint_folder(bound.name, bound.fingerprint)
    files = [path for path in lake.find(folder) if path.endswith(".parquet")]
    schema, where = schema_of(bound), pc.field("media_id").isin(list(media_ids)) & (pc.field("shard") != shard.key)
    try:
        there = set(lake.read_columns(files, schema, ["__filename"], where)["__filename"].to_pylist())
        found = lake.read_columns([path for path in files if lake.path(path) in there], schema, schema.names, where)
    except FileNotFoundError:  # sealed away while we looked
        return {}
    rows = sorted(found.to_pylist(), key=lambda row: row["created_at"])
    return {(row["media_id"], Digests(row["input_digest"], row["source_digest"])): row for row in rows}


@dataclass(frozen=True)
class Part:
    """Rows on their way into one part file."""

    bound: BoundPerspective
    shard: Shard
    rows: list[dict[str, Any]]


class PartBuffer:
    """Collects rows until there are enough for a part file, or the first has waited long enough."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, Shard], tuple[float, Part]] = {}

    def append(self, bound: BoundPerspective, shard: Shard, row: dict[str, Any]) -> Part | None:
        """Add a row; returns the part that is full now."""
        key = (bound.name, shard)
        _, part = self._parts.setdefault(key, (time.monotonic(), Part(bound, shard, [])))
        part.rows.append(row)
        return self._parts.pop(key)[1] if len(part.rows) >= FLUSH_ROWS else None

    def take(self, *, shard: Shard | None = None, aged: bool = False) -> list[Part]:
        """Hand out what is to be written now: everything, one shard's rows, or those that waited long enough."""
        due = time.monotonic() - FLUSH_SECONDS
        keys = [
            key
            for key, (since, _) in self._parts.items()
            if (shard is None or key[1] == shard) and (not aged or since <= due)
        ]
        return [self._parts.pop(key)[1] for key in keys]


class PartWriter:
    """Writes part files, which are never overwritten: each writer has names of its own."""

    def __init__(self, lake: Lake, run_id: str) -> None:
        self._lake = lake
        self._prefix = f"part-{run_id}-{uuid.uuid4().hex[:6]}"  # a retried step has the same run id
        self._number = 0

    def write(self, parts: Sequence[Part]) -> None:
        """Make the rows durable. Not thread-safe."""
        for part in parts:
            folder = layout.captions_folder(part.bound.name, part.bound.fingerprint, part.shard)
            table = tables.table(part.rows, schema_of(part.bound))
            self._lake.write(f"{folder}/{self._prefix}-{self._number}.parquet", table_bytes(table))
            self._number += 1


def seal(
    lake: Lake, bound: BoundPerspective, shard: Shard, run_id: str, deleted: Collection[str] = frozenset()
) -> None:
    """Write a finished shard's rows as one file, then delete just the files they were read from.

    Args:
        deleted: media_ids whose rows are dropped.
    """
    folder = layout.captions_folder(bound.name, bound.fingerprint, shard)
    found, files = _read_folder(lake, folder, None)
    if len(files) < 2 and not any(name.startswith("part-") for name in files):
        return
    kept = pc.invert(pc.is_in(found["media_id"], pa.array(sorted(deleted), pa.string())))
    rows = tables.conform(_latest(found.filter(kept)), schema_of(bound))
    sealed = f"sealed-{run_id}-{uuid.uuid4().hex[:6]}.parquet"
    lake.write(f"{folder}/{sealed}", table_bytes(rows))
    for name in files:
        lake.remove(f"{folder}/{name}")


@again_at_once
def _read_folder(lake: Lake, folder: str, columns: list[str] | None) -> tuple[pa.Table, list[str]]:
    """All rows of a folder's files and the files' names."""
    files = [name for name in lake.list(folder) if name.endswith(".parquet")]
    found = [lake.read_table(f"{folder}/{name}", columns) for name in files]
    return pa.concat_tables([_NO_ROWS, *found], promote_options="default"), files


def _latest(rows: pa.Table) -> pa.Table:
    """The latest row of each picture, by media_id; of equally late ones the first."""
    ordered = rows.sort_by([("media_id", "ascending"), ("created_at", "descending")])
    ids = ordered["media_id"].combine_chunks()
    return ordered.filter(pa.concat_arrays([pa.array([True][: len(ids)], pa.bool_()), pc.not_equal(ids[1:], ids[:-1])]))
