"""What is stored of a shard's media: its index, its failures, and the pictures that the index points to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import live
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.tombstones import read_tombstones
from caption_assets.sources.spool import Body, Spool, sha256

Row = dict[str, Any]
"""A row of the media table or of the failures table."""

_MESSAGE_LENGTH = 1000
_PIECE = 8_000_000
_GAP = 1 << 16
"""Bytes between two pictures that are read along: a record and its padding, but no kept original."""


def read_index(lake: Lake, shard: Shard, columns: Sequence[str] | None = None) -> list[Row]:
    """The media rows of a shard, without those of deleted pictures; empty where it has none yet.

    Args:
        columns: those to read, `media_id`, `dataset` and `uri` among them; default: all.
    """
    tombstones = read_tombstones(lake)
    return [row for row in _rows(lake, layout.media_index(shard), columns) if not tombstones.forbid(row)]


def read_whole_index(lake: Lake, shard: Shard) -> list[Row]:
    """The media rows of a shard as they are, with deleted pictures that are still to be removed."""
    return _rows(lake, layout.media_index(shard))


def read_failures(lake: Lake, stage: str, shard: Shard) -> list[Row]:
    """The failures of one stage of a shard."""
    return _rows(lake, layout.failures_file(stage, shard))


def key_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """What makes the item of a media or failure row this one in its dataset."""
    return row["uri"], row["etag"]


def segment_path(row: Mapping[str, Any]) -> str:
    """Where the segment of a media row is."""
    return f"{layout.media_folder(row['dataset'])}/{row['segment']}"


def read_picture(lake: Lake, row: Mapping[str, Any]) -> bytes:
    """The stored bytes of a media row: one range read.

    Raises:
        FileNotFoundError: its segment is gone, and the index has no other for it.
    """
    return _read(lake, row, "offset", "length")


def read_close_together(lake: Lake, rows: Sequence[Row]) -> list[bytes | Exception]:
    """The stored bytes of media rows, in their order, or why they cannot be had: neighbours in one range read."""
    return [each for run in _runs(rows) for each in _read_run(lake, run)]


def read_original(lake: Lake, row: Mapping[str, Any]) -> bytes | None:
    """The bytes of a media row's original, its metadata included; None where they were not kept. Raises as above."""
    return None if row.get("original_offset") is None else _read(lake, row, "original_offset", "original_length")


def read_pictures(lake: Lake, rows: Sequence[Row]) -> Iterator[tuple[Row, bytes, bytes | None]]:
    """The distinct pictures of rows that share a segment, with their originals: one reading from its front to its end.

    What lies beyond the end of the segment comes short. Raises FileNotFoundError.
    """
    distinct = {row["media_id"]: row for row in reversed(rows)}  # the first of each: its uri is in the record
    if not distinct:
        return
    with lake.open(segment_path(rows[0])) as segment:
        for row in sorted(distinct.values(), key=lambda row: int(row["offset"])):
            segment.seek(row["offset"])
            data, original = segment.read(row["length"]), None
            if row.get("original_offset") == row["offset"]:
                original = data
            elif row.get("original_offset") is not None:
                segment.seek(row["original_offset"])
                original = segment.read(row["original_length"])
            yield row, data, original


def copy_stored(lake: Lake, row: Mapping[str, Any]) -> tuple[Spool, Spool | None]:
    """The stored bytes of a media row, and its original's: the same object where they are stored once.

    They come a piece at a time, and short where the segment ends too early. Raises FileNotFoundError.
    """
    data = _copied(lake, row, "offset", "length")
    if row.get("original_offset") is None:
        return data, None
    same = row["original_offset"] == row["offset"]
    return data, data if same else _copied(lake, row, "original_offset", "original_length")


def damage(row: Mapping[str, Any], data: Body, original: Body | None) -> str | None:
    """What is wrong with the bytes that were read for a media row; None where they are those that were written."""
    if sha256(data) != row["bytes_sha256"]:
        return "the picture's bytes are not those that were stored"
    if original is not None and sha256(original) != row["media_id"]:
        return "the original's bytes are not those that were stored"
    return None


def failure_row(
    shard: Shard,
    key: tuple[str, str],
    kind: str,
    message: str,
    run_id: str,
    created_at: datetime,
    *,
    media_id: str | None = None,
    fingerprint: str | None = None,
    attempts: int = 1,
    retryable: bool = False,
) -> Row:
    """An item without media, and why. `fingerprint` names the settings that the failure depends on, if any."""
    return {
        "stage": "media",
        "dataset": shard.dataset,
        "shard": shard.key,
        "media_id": media_id,
        "uri": key[0],
        "etag": key[1],
        "fingerprint": fingerprint,
        "kind": kind,
        "message": message[:_MESSAGE_LENGTH],
        "attempts": attempts,
        "retryable": retryable,
        "run_id": run_id,
        "created_at": created_at,
    }


def commit(lake: Lake, shard: Shard, rows: list[Row], failed: list[Row]) -> None:
    """Write the failures, then the index, whose segment must be there."""
    write_failures(lake, shard, failed)
    lake.write(layout.media_index(shard), table_bytes(tables.table(rows, tables.MEDIA)))


def write_failures(lake: Lake, shard: Shard, failed: list[Row]) -> None:
    """Write the shard's media failures alone."""
    lake.write(layout.failures_file("media", shard), table_bytes(tables.table(failed, tables.FAILURES)))


def _copied(lake: Lake, row: Mapping[str, Any], offset: str, length: str) -> Spool:
    end = row[offset] + row[length]
    with Spool() as copy:
        for start in range(row[offset], end, _PIECE):
            copy.write(lake.read_range(segment_path(row), start, min(_PIECE, end - start)))
        return copy


def _read(lake: Lake, row: Mapping[str, Any], offset: str, length: str) -> bytes:
    try:
        return lake.read_range(segment_path(row), row[offset], row[length])
    except FileNotFoundError:  # perhaps a repair, a deletion or a merge has replaced the segment since the row was read
        rows = read_index(lake, live(lake, Shard.parse(row["shard"])))
        now = next((each for each in rows if each["media_id"] == row["media_id"]), None)
        if now is None or now["segment"] == row["segment"] or now.get(offset) is None:
            raise
        return lake.read_range(segment_path(now), now[offset], now[length])


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Media rows whose pictures stand close behind each other in one segment."""
    run: list[Row] = []
    for row in rows:
        if run and not _follows(run, row):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _follows(run: Sequence[Row], row: Row) -> bool:
    first, last = run[0], run[-1]
    gap, span = row["offset"] - last["offset"] - last["length"], row["offset"] + row["length"] - first["offset"]
    return segment_path(row) == segment_path(last) and 0 <= gap <= _GAP and span <= _PIECE


def _read_run(lake: Lake, run: Sequence[Row]) -> Iterator[bytes | Exception]:
    if len(run) == 1:
        yield _read_alone(lake, run[0])
        return
    start = run[0]["offset"]
    try:
        data = lake.read_range(segment_path(run[0]), start, run[-1]["offset"] + run[-1]["length"] - start)
    except Exception:  # each tells what is the matter with it
        yield from (_read_alone(lake, row) for row in run)
        return
    for row in run:
        yield data[row["offset"] - start : row["offset"] - start + row["length"]]


def _read_alone(lake: Lake, row: Row) -> bytes | Exception:
    try:
        return read_picture(lake, row)
    except Exception as error:
        return error


def _rows(lake: Lake, path: str, columns: Sequence[str] | None = None) -> list[Row]:
    try:
        rows: list[Row] = lake.read_table(path, columns).to_pylist()
    except FileNotFoundError:
        return []
    return rows
