"""The columns of every table of the lake."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

PLAN = pa.schema(
    [
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("modified", TIMESTAMP),
        ("source", pa.string()),  # JSON object: the columns that came with the item
        ("planned_at", TIMESTAMP),
    ]
)

MEDIA = pa.schema(
    [
        ("media_id", pa.string()),  # SHA-256 (hex) of the original bytes
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("segment", pa.string()),  # file name beside the index
        ("member", pa.string()),
        ("offset", pa.int64()),  # of the picture's bytes in the segment
        ("length", pa.int64()),
        ("bytes_sha256", pa.string()),  # of what is stored
        ("original_offset", pa.int64()),  # of the original's bytes in the segment; null where they are not kept
        ("original_length", pa.int64()),
        ("width", pa.int32()),  # pixels, as stored
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # pixels, upright
        ("original_height", pa.int32()),
        ("original_bytes", pa.int64()),
        ("format", pa.string()),  # of the original
        ("frames", pa.int32()),  # of the original; the first is stored
        ("truncated", pa.bool_()),  # a part of it is missing, and grey
        ("phash", pa.string()),  # 64-bit perceptual hash, hex
        ("brightness", pa.float32()),  # mean luma of what is stored, 0-1
        ("blur", pa.float32()),  # variance of the luma's Laplacian: higher is sharper
        ("normalisation", pa.string()),
        ("taken_at", pa.timestamp("us")),  # local time, as the camera had it
        ("camera_make", pa.string()),
        ("camera_model", pa.string()),
        ("latitude", pa.float64()),  # decimal degrees, WGS84; null unless media.gps
        ("longitude", pa.float64()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("keywords", pa.list_(pa.string())),
        ("creator", pa.string()),
        ("exif", pa.string()),  # JSON objects; null where the file has none
        ("xmp", pa.string()),
        ("iptc", pa.string()),
        ("source", pa.string()),
        ("run_id", pa.string()),
        ("created_at", TIMESTAMP),
    ]
)

NEAR_DUPLICATES = pa.schema(
    [
        ("phash_a", pa.string()),  # the lesser of two different hashes
        ("phash_b", pa.string()),
        ("distance", pa.int32()),  # bits in which they differ
    ]
)

CAPTION_HEAD = [
    ("media_id", pa.string()),
    ("dataset", pa.string()),
    ("shard", pa.string()),
    ("perspective", pa.string()),
    ("fingerprint", pa.string()),
    ("input_digest", pa.string()),  # over the outputs it read; null where it read none
    ("source_digest", pa.string()),  # over the source columns that its prompt depends on; null where there are none
    ("output_digest", pa.string()),  # SHA-256 (hex) of the output's canonical JSON
    ("model", pa.string()),
    ("revision", pa.string()),
]
CAPTION_TAIL = [
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int32()),
    ("cached_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
    ("attempts", pa.int32()),
    ("seconds", pa.float64()),
    ("contributor", pa.string()),
    ("run_id", pa.string()),
    ("created_at", TIMESTAMP),
    ("reused_from", pa.string()),  # the shard a row was copied from
]
META_COLUMNS = [name for name, _ in CAPTION_HEAD + CAPTION_TAIL]

FAILURES = pa.schema(
    [
        ("stage", pa.string()),
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("media_id", pa.string()),  # null for stage media, but for pictures deleted
        ("uri", pa.string()),  # null for a perspective
        ("etag", pa.string()),
        ("fingerprint", pa.string()),  # null for stage media
        ("kind", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("retryable", pa.bool_()),
        ("partial", pa.string()),  # JSON: what is done of a picture whose regions are looked at one by one
        ("input_digest", pa.string()),  # as of a caption: the attempts are for a prompt that reads this
        ("source_digest", pa.string()),
        ("run_id", pa.string()),
        ("created_at", TIMESTAMP),
    ]
)

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.string()),  # media, captions
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("perspective", pa.string()),  # null for media
        ("fingerprint", pa.string()),
        ("model", pa.string()),
        ("done", pa.int64()),
        ("failed", pa.int64()),
        ("failure_kinds", pa.string()),  # JSON object: kind → number
        ("reused", pa.int64()),
        ("already_there", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("cost", pa.float64()),  # in the currency of the engine's prices; null where it has none
        ("contributor", pa.string()),
        ("cause", pa.string()),  # what launched it: arrival, repair, recaptioning; null: a person
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
    ]
)

TOMBSTONES = pa.schema(
    [
        ("media_id", pa.string()),  # forbidden in every dataset; null: the dataset's uri is
        ("dataset", pa.string()),  # null where the picture was not in the lake
        ("uri", pa.string()),
        ("reason", pa.string()),
        ("contributor", pa.string()),
        ("created_at", TIMESTAMP),
    ]
)

DEPARTURES = pa.schema(
    [
        ("dataset", pa.string()),
        ("shard", pa.string()),  # that the item was planned in
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("gone", pa.bool_()),  # false: it is back; the latest row of an item holds
        ("run_id", pa.string()),
        ("created_at", TIMESTAMP),
    ]
)

MERGES = pa.schema(
    [
        ("version", pa.int64()),  # of the dataset's ledger: the highest counts
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("successor", pa.string()),  # the shard that holds its items once the merge is done
        ("merged", pa.bool_()),  # whether the shard was itself made by a merge
        ("merge_id", pa.string()),
        ("state", pa.string()),  # pending, done, void
        ("run_id", pa.string()),
        ("created_at", TIMESTAMP),
    ]
)

RECONCILIATIONS = pa.schema(
    [
        ("run_id", pa.string()),
        ("dataset", pa.string()),
        ("scanned", pa.int64()),  # items that the source has; null where it could not be read
        ("shards", pa.int64()),
        ("found", pa.string()),  # JSON object: kind → number
        ("repaired", pa.string()),  # JSON object: kind → number
        ("examples", pa.string()),  # JSON object: kind → the first few
        ("problem", pa.string()),  # why source and plan were not compared, or nothing was marked
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
    ]
)

MediaFailureKind = Literal[
    "gone",  # no longer there, or not in the planned version
    "forbidden",  # the store, the server or the file's owner refuses it
    "timeout",  # no answer in time
    "unreachable",  # its server does not answer, breaks off, or says that it is overloaded
    "opted_out",  # its publisher asks machines like us to leave it: robots.txt, X-Robots-Tag
    "blocked_address",  # its URL leads to an address that a list may not name: private, loopback, metadata
    "unreadable",  # its bytes cannot be read, for a reason of the source's
    "bad_row",  # the line of a list that should name it cannot be understood, or names what a list may not
    "not_an_image",
    "unsupported",  # a picture in a format that is not decoded
    "truncated",  # it ends too early
    "too_large",  # for the limits on pixels and bytes, as its head says
    "deleted",  # on request; it never comes back while its tombstone stands
]
CaptionFailureKind = Literal[
    "input_missing",
    "media_missing",
    "engine",
    "truncated",
    "empty",
    "not_json",
    "schema",
    "repetition",
    "refusal",
    "prompt",
    "too_long",
]
RETRYABLE: frozenset[str] = frozenset(
    {
        "gone",
        "forbidden",
        "timeout",
        "unreachable",
        "blocked_address",
        "unreadable",
        "input_missing",
        "media_missing",
        "engine",
    }
)


def captions_schema(output: pa.DataType) -> pa.Schema:
    """Columns of a perspective's caption table; `output` is its STRUCT."""
    return pa.schema([*CAPTION_HEAD, ("output", output), *CAPTION_TAIL])


def now() -> datetime:
    """The present, as the tables store it."""
    return datetime.now(UTC)


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of a schema; absent columns are null."""
    return pa.Table.from_pylist(rows, schema=schema)


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema; absent ones are null."""
    there = frozenset(rows.column_names)
    columns = [
        rows[field.name].cast(field.type) if field.name in there else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
