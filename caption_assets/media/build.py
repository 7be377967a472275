"""One writing of a shard's segment: what is kept is copied, what is missing is made, in the plan's order."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from caption_assets.config import Media
from caption_assets.lake import tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media import generations
from caption_assets.media.decode import DecodeError, decode
from caption_assets.media.deletion import deleted_row
from caption_assets.media.memory import AT_ONCE, Held, MemoryGate
from caption_assets.media.normalise import normalisation_id, normalise
from caption_assets.media.original import Original
from caption_assets.media.progress import ProgressMeter
from caption_assets.media.segment import SegmentWriter
from caption_assets.media.stored import Row, copy_stored, damage, failure_row
from caption_assets.media.text import sorted_json
from caption_assets.sources.base import FetchError, Fetching, HasManners, Item, Source, StartsFetches
from caption_assets.sources.spool import LARGE, Spool

_log = logging.getLogger(__name__)
_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_READ_AHEAD = 8 * _WORKERS
_TAKEN_TOGETHER = _READ_AHEAD // 2


@dataclass(frozen=True)
class _Ready:
    """A picture that is ready to be stored, kept from the old segment or made now, and waits for its turn."""

    item: Item
    row: Row
    data: Spool
    extension: str
    original: Spool | None
    """The bytes that the source had, where they are to be stored, too; `data` itself, where they are the same."""

    def close(self) -> None:
        """Forget the bytes, once they are stored."""
        self.data.close()
        if self.original:
            self.original.close()


def failure_fingerprint(media: Media, source: Source, kind: str) -> str:
    """Names the settings on which a failure of a kind depends: the normalisation's, the limits, what is allowed."""
    memory = f"-d{media.max_decode_mb:g}" if kind == "too_large" else ""
    partial = "-partial" if kind == "truncated" and media.allow_truncated else ""
    manners = f"-w{source.manners}" if kind == "opted_out" and isinstance(source, HasManners) else ""
    return f"{normalisation_id(media)}-m{media.max_megapixels:g}-f{media.max_file_mb:g}{memory}{partial}{manners}"


def _first(waiting: deque[Future[_Ready | Row]], count: int, meter: ProgressMeter) -> Iterator[_Ready | Row]:
    """The first so many outcomes, once all are there: who wakes up for each one takes a core from a decoder."""
    if waiting:
        meter.wait_for(waiting[count - 1])
    for _ in range(count):
        meter.wait_for(waiting[0])
        yield waiting.popleft().result()


class ShardBuild:
    """What is known of a shard before it is written, and its writing.

    Args:
        kept: index rows to copy, by (uri, etag).
        failures: all failures of the last run.
        settled: those of them not to be tried again, by (uri, etag).
        deleted: media_ids that must not come back.
    """

    def __init__(
        self,
        lake: Lake,
        shard: Shard,
        source: Source,
        media: Media,
        run_id: str,
        kept: Mapping[tuple[str, str], Row],
        failures: Sequence[Row],
        settled: Mapping[tuple[str, str], Row],
        deleted: Collection[str] = frozenset(),
    ) -> None:
        self._lake, self._shard, self._source, self._media, self._run_id = lake, shard, source, media, run_id
        self._kept, self._settled, self._deleted = kept, settled, deleted
        self._attempts = {(row["uri"], row["etag"]): int(row["attempts"]) for row in failures}
        self._made: dict[tuple[str, str], _Ready | Row] = {}
        self._created_at, self._normalisation = tables.now(), normalisation_id(media)
        self._generation = 0
        self._decode_bytes = int(media.max_decode_mb * 1e6)
        self._memory = MemoryGate(int(self._decode_bytes * AT_ONCE))

    def any_succeeds(self, pending: Sequence[Item], meter: ProgressMeter) -> bool:
        """Try these items until one is a picture; no outcome is worked out twice."""
        for item, fetched in self._fetched_ahead(pending):
            if fetched:
                meter.wait_for(fetched)
            outcome = self._made[item.key] = self._make(item, fetched)
            if isinstance(outcome, _Ready):
                return True
            meter.count(outcome["kind"])
        return False

    def failures(self, items: Sequence[Item]) -> list[Row]:
        """The failures known so far, in the plan's order."""
        known = {**self._made, **self._settled}
        outcomes = (known.get(item.key) for item in items if item.key not in self._kept)
        return [outcome for outcome in outcomes if isinstance(outcome, dict)]

    def write(self, items: Sequence[Item], index: Sequence[Row], meter: ProgressMeter) -> tuple[list[Row], list[Row]]:
        """Put a segment of all items' pictures in place; return media rows and failure rows in the plan's order.

        Where there is no picture there is no segment either.
        """
        rows: list[Row] = []
        failed: list[Row] = []
        stored: dict[str, Row] = {}
        with self._lake.scratch() as file:
            with SegmentWriter(file, to_disk=self._lake.local) as segment:
                for outcome in self._outcomes(items, meter):
                    if isinstance(outcome, _Ready):
                        rows.append(self._store(segment, stored, outcome))
                        outcome.close()
                        meter.count()
                    else:
                        failed.append(outcome)
                        meter.count(outcome["kind"])
            self._generation = generations.place(self._lake, self._shard, file, index, empty=not rows)
        name = generations.segment_name(self._shard, self._generation)
        return [{**row, "segment": name} for row in rows], failed

    def remove_older_segments(self) -> None:
        """Delete what the segment written now replaces, and what runs that died left."""
        generations.remove_older(self._lake, self._shard, self._generation)

    def _outcomes(self, items: Sequence[Item], meter: ProgressMeter) -> Iterator[_Ready | Row]:
        """Outcomes in the plan's order, made by a few threads with bounded read-ahead."""
        waiting: deque[Future[_Ready | Row]] = deque()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="media") as pool:
            try:
                for item, fetched in self._fetched_ahead(items):
                    waiting.append(pool.submit(self._one, item, fetched))
                    if len(waiting) >= _READ_AHEAD:
                        yield from _first(waiting, _TAKEN_TOGETHER, meter)
                yield from _first(waiting, len(waiting), meter)
            finally:
                for future in waiting:
                    future.cancel()  # an error ends the run now, not after what was read ahead

    def _fetched_ahead(self, items: Iterable[Item]) -> Iterator[tuple[Item, Future[bytes] | None]]:
        """The items in their order, each with its fetch where the source has many under way at once."""
        if not isinstance(self._source, StartsFetches):
            yield from ((item, None) for item in items)
            return
        started: deque[tuple[Item, Future[bytes] | None]] = deque()
        try:
            for item in items:
                started.append((item, self._start(self._source, item)))
                if len(started) >= self._source.ahead:
                    yield started.popleft()
            while started:
                yield started.popleft()
        finally:
            for _, fetch in started:
                if fetch:
                    fetch.cancel()

    def _start(self, source: StartsFetches, item: Item) -> Future[bytes] | None:
        """Begin to fetch an item, unless it will not be needed, or nothing can come of it."""
        if item.key in self._made or item.key in self._settled or item.key in self._kept:
            return None
        try:
            return source.start(item.uri, item.etag)
        except FetchError:
            return None  # told where the item is made

    def _one(self, item: Item, fetched: Future[bytes] | None = None) -> _Ready | Row:
        if outcome := self._made.pop(item.key, None) or self._settled.get(item.key):
            return outcome
        if (row := self._kept.get(item.key)) and (stored := self._stored(item, row)):
            return stored
        return self._make(item, fetched)  # again, where what is stored is lost or damaged

    def _stored(self, item: Item, row: Row) -> _Ready | None:
        """A picture as the old segment has it, if it is there and sound."""
        try:
            data, original = copy_stored(self._lake, row)
        except FileNotFoundError:
            return None
        if damage(row, data, original):
            return None
        return _Ready(item, row, data, row["member"].rsplit(".", 1)[-1], original)

    def _make(self, item: Item, fetched: Future[bytes] | None = None) -> _Ready | Row:
        """Fetch, decode and normalise an item: a picture, or a failure row."""
        size = fetched.size() if isinstance(fetched, Fetching) else item.size
        if refusal := self._refused(size):
            return self._failure(item, refusal)
        with self._memory.enter() as held:
            if size <= LARGE and not held.grows_to(size):
                held.wait_for(size)
            return self._outcome(item, fetched, held)

    def _refused(self, size: int) -> DecodeError | None:
        """Why a file of this size is not even read, if it is not."""
        most = self._media.max_file_mb
        if size <= most * 1e6:
            return None
        return DecodeError("too_large", f"{size} bytes are more than media.max_file_mb ({most:g}) megabytes; raise it")

    def _original(self, item: Item, fetched: Future[bytes] | None, held: Held) -> Original:
        """The bytes of an item: in memory, and held, unless they are many. Raises FetchError."""
        if fetched is None:
            original = Original(self._source.fetch(item.uri, item.etag))
        else:
            original = Original(fetched.body() if isinstance(fetched, Fetching) else fetched.result())
        if len(original) <= LARGE or original.in_memory:
            if not held.grows_to(len(original)):
                held.wait_for(len(original))
            original.load()
        return original

    def _outcome(self, item: Item, fetched: Future[bytes] | None, held: Held) -> _Ready | Row:
        media = self._media
        try:
            original = self._original(item, fetched, held)
            media_id = original.sha256()
            if media_id in self._deleted:
                return deleted_row(self._shard, item, media_id, self._run_id, self._created_at)
            picture = decode(
                original,
                max_megapixels=media.max_megapixels,
                target_pixels=media.max_pixels,
                gps=media.gps,
                allow_truncated=media.allow_truncated,
                memory=held,
                max_bytes=self._decode_bytes,
            )
            normalised = normalise(picture, media)
            data, digest = Spool.of(normalised.data), hashlib.sha256(normalised.data).hexdigest()
            kept = (data if digest == media_id else original.waiting()) if media.keep_originals else None
        except (FetchError, DecodeError) as error:
            return self._failure(item, error)
        except Exception as error:  # a picture that nothing foresaw must not hold up its whole shard
            _log.exception("%s: %s", self._shard.key, item.uri)
            return self._failure(item, FetchError("unreadable", f"unforeseen {type(error).__name__}: see the log"))
        row = {
            "media_id": media_id,
            "bytes_sha256": digest,
            "width": normalised.width,
            "height": normalised.height,
            "original_width": picture.width,
            "original_height": picture.height,
            "original_bytes": len(original),
            "format": picture.format,
            "frames": picture.frames,
            "truncated": picture.truncated,
            "phash": normalised.phash,
            **vars(normalised.quality),
            **picture.metadata.columns(),
            "run_id": self._run_id,
            "created_at": self._created_at,
        }
        return _Ready(item, row, data, normalised.extension, kept)

    def _store(self, segment: SegmentWriter, stored: dict[str, Row], ready: _Ready) -> Row:
        """Put a picture in the segment, once however many items have its bytes; return its row."""
        media_id = ready.row["media_id"]
        if media_id not in stored:
            row = {**ready.row, "uri": ready.item.uri}
            place = segment.add_picture(row, ready.data, ready.extension, ready.original)
            same = ("bytes_sha256", "phash", "width", "height")
            stored[media_id] = place | {name: row[name] for name in same}
        return {
            **ready.row,
            **stored[media_id],
            "dataset": self._shard.dataset,
            "shard": self._shard.key,
            "uri": ready.item.uri,
            "etag": ready.item.etag,
            "normalisation": self._normalisation,
            "source": sorted_json(ready.item.source),
        }

    def _failure(self, item: Item, error: FetchError | DecodeError) -> Row:
        return failure_row(
            self._shard,
            item.key,
            error.kind,
            str(error),
            self._run_id,
            self._created_at,
            fingerprint=failure_fingerprint(self._media, self._source, error.kind),
            attempts=self._attempts.get(item.key, 0) + 1,
            # the same bytes fail the same way: only what came of fetching may pass
            retryable=isinstance(error, FetchError) and error.kind in tables.RETRYABLE,
        )
