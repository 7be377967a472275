"""Materialize the media of a shard: fetch, decode, normalise, pack, index. Finished work is never repeated.

What the index already holds under the present normalisation is kept; failures that may pass are tried again. A repair
writes the next generation of the segment, commits the index, then deletes the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from caption_assets.config import Media
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.media.decode import DecodeError, decode, exif_json
from caption_assets.media.normalise import Normalised, normalise, normalisation_id
from caption_assets.media.segment import SegmentWriter
from caption_assets.sources.base import FetchError, Item, Source
from caption_assets.sources.planner import read_plan

_WORKERS = 2
_READ_AHEAD = 16


@dataclass
class MediaReport:
    """What happened to a shard: all counts are items of its plan."""

    shard: Shard
    planned: int = 0
    rows: int = 0
    new: int = 0
    failed: int = 0
    failure_kinds: Counter[str] = field(default_factory=Counter)
    stored_bytes: int = 0


@dataclass(frozen=True)
class _Ready:
    """A picture that is ready to be stored: kept from the old segment, or made now."""

    item: Item
    row: dict[str, Any]
    data: bytes
    extension: str


def read_index(lake: Lake, shard: Shard) -> list[dict[str, Any]]:
    """The media rows of a shard; empty where it has none yet."""
    try:
        return lake.read_table(layout.media_index(shard)).to_pylist()
    except FileNotFoundError:
        return []


def read_failures(lake: Lake, stage: str, shard: Shard) -> list[dict[str, Any]]:
    """The failures of one stage of a shard."""
    try:
        return lake.read_table(layout.failures_file(stage, shard)).to_pylist()
    except FileNotFoundError:
        return []


def read_picture(lake: Lake, row: dict[str, Any]) -> bytes:
    """The stored bytes of a media row: one range read. Raises FileNotFoundError when its segment is gone."""
    return lake.read_range(_segment_path(row), row["offset"], row["length"])


def build_media(
    lake: Lake,
    shard: Shard,
    source: Source,
    media: Media,
    run_id: str,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MediaReport:
    """Bring a shard's media up to date.

    Raises:
        FileNotFoundError: the shard was never planned.
    """
    items = read_plan(lake, shard)
    normalisation = normalisation_id(media)
    index = read_index(lake, shard)
    lost = bool(index) and not lake.exists(_segment_path(index[0]))
    kept = {
        (row["uri"], row["etag"]): row
        for row in index
        if row["normalisation"] == normalisation and not force and not lost
    }
    failures = {(row["uri"], row["etag"]): row for row in read_failures(lake, "media", shard)}
    settled = {
        key
        for key, row in failures.items()
        if not row["retryable"] and row["fingerprint"] == normalisation and not force
    }
    pending = [item for item in items if (item.uri, item.etag) not in kept | dict.fromkeys(settled)]
    if not pending:
        return _report(shard, items, index, list(failures.values()), new=0)

    build = _Build(lake, shard, source, media, run_id, index, kept, failures, settled)
    rows, failed = build.write(items, progress)
    lake.write(layout.failures_file("media", shard), table_bytes(tables.table(failed, tables.FAILURES)))
    lake.write(layout.media_index(shard), table_bytes(tables.table(rows, tables.MEDIA)))
    if index and index[0]["segment"] != build.segment_name:
        lake.remove(_segment_path(index[0]))
    return _report(shard, items, rows, failed, new=len(rows) - len(kept))


class _Build:
    """One writing of a shard's segment."""

    def __init__(
        self,
        lake: Lake,
        shard: Shard,
        source: Source,
        media: Media,
        run_id: str,
        index: list[dict[str, Any]],
        kept: dict[tuple[str, str], dict[str, Any]],
        failures: dict[tuple[str, str], dict[str, Any]],
        settled: set[tuple[str, str]],
    ) -> None:
        self.lake, self.shard, self.source, self.media, self.run_id = lake, shard, source, media, run_id
        self.kept, self.failures, self.settled = kept, failures, settled
        self.path = layout.segment(shard, _generation(index))
        self.segment_name = PurePosixPath(self.path).name
        self.created_at = tables.now()

    def write(
        self, items: list[Item], progress: Callable[[int, int], None]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write the segment in the plan's order; return media rows and failure rows."""
        rows: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        stored: dict[str, dict[str, Any]] = {}
        with self.lake.place(self.path) as file, SegmentWriter(file) as segment:
            for done, (item, outcome) in enumerate(self._outcomes(items), 1):
                if isinstance(outcome, _Ready):
                    rows.append(self._store(segment, stored, outcome))
                else:
                    failed.append(outcome)
                progress(done, len(items))
        return rows, failed

    def _outcomes(self, items: list[Item]) -> Iterator[tuple[Item, _Ready | dict[str, Any]]]:
        """Outcomes in the plan's order, made by a few threads with bounded read-ahead."""
        waiting: deque[tuple[Item, Future[_Ready | dict[str, Any]]]] = deque()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="media") as pool:
            for item in items:
                waiting.append((item, pool.submit(self._one, item)))
                if len(waiting) >= _READ_AHEAD:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result()

    def _one(self, item: Item) -> _Ready | dict[str, Any]:
        key = (item.uri, item.etag)
        if key in self.settled:
            return self.failures[key]
        if row := self.kept.get(key):
            try:
                return _Ready(item, row, read_picture(self.lake, row), row["member"].rsplit(".", 1)[-1])
            except FileNotFoundError:
                pass  # the segment was lost: make the picture again
        try:
            original = self.source.fetch(item.uri, item.etag)
            picture = decode(
                original, max_megapixels=self.media.max_megapixels, target_pixels=self.media.max_pixels
            )
            normalised = normalise(picture, self.media)
        except (FetchError, DecodeError) as error:
            return self._failure(item, error)
        row = {
            "media_id": hashlib.sha256(original).hexdigest(),
            "original_width": picture.width,
            "original_height": picture.height,
            "original_bytes": len(original),
            "format": picture.format,
            "exif": exif_json(picture.exif),
            "run_id": self.run_id,
            "created_at": self.created_at,
            **_stored_columns(normalised),
        }
        return _Ready(item, row, normalised.data, normalised.extension)

    def _store(self, segment: SegmentWriter, stored: dict[str, dict[str, Any]], ready: _Ready) -> dict[str, Any]:
        """Put a picture in the segment, once however many items have its bytes; return its row."""
        media_id = ready.row["media_id"]
        if media_id not in stored:
            member = f"{media_id}.{ready.extension}"
            offset = segment.add(member, ready.data)
            segment.add_json(
                f"{media_id}.json",
                {"media_id": media_id, "uri": ready.item.uri, "width": ready.row["width"], "height": ready.row["height"]},
            )
            stored[media_id] = {"member": member, "offset": offset, "length": len(ready.data)}
        return {
            **ready.row,
            **stored[media_id],
            "dataset": self.shard.dataset,
            "shard": self.shard.key,
            "uri": ready.item.uri,
            "etag": ready.item.etag,
            "segment": self.segment_name,
            "normalisation": normalisation_id(self.media),
            "source": json.dumps(ready.item.source, ensure_ascii=False, sort_keys=True),
        }

    def _failure(self, item: Item, error: FetchError | DecodeError) -> dict[str, Any]:
        before = self.failures.get((item.uri, item.etag))
        return {
            "stage": "media",
            "dataset": self.shard.dataset,
            "shard": self.shard.key,
            "uri": item.uri,
            "etag": item.etag,
            "fingerprint": normalisation_id(self.media),
            "kind": error.kind,
            "message": str(error)[:1000],
            "attempts": (before["attempts"] if before else 0) + 1,
            "retryable": error.kind in tables.RETRYABLE,
            "run_id": self.run_id,
            "created_at": self.created_at,
        }


def _segment_path(row: dict[str, Any]) -> str:
    return str(PurePosixPath(layout.media_index(Shard(row["dataset"], 0))).parent / row["segment"])


def _stored_columns(normalised: Normalised) -> dict[str, Any]:
    return {
        "bytes_sha256": hashlib.sha256(normalised.data).hexdigest(),
        "width": normalised.width,
        "height": normalised.height,
        "phash": normalised.phash,
    }


def _generation(index: list[dict[str, Any]]) -> int:
    """The generation to write: the one after the indexed segment's, 0 for a first segment."""
    if not index:
        return 0
    parts = index[0]["segment"].removesuffix(".tar").rsplit(".", 1)
    return int(parts[1]) + 1 if len(parts) == 2 and parts[1].isdigit() else 1


def _report(
    shard: Shard, items: list[Item], rows: list[dict[str, Any]], failed: list[dict[str, Any]], *, new: int
) -> MediaReport:
    return MediaReport(
        shard=shard,
        planned=len(items),
        rows=len(rows),
        new=new,
        failed=len(failed),
        failure_kinds=Counter(row["kind"] for row in failed),
        stored_bytes=sum({row["media_id"]: row["length"] for row in rows}.values()),
    )
