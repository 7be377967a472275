"""What is to be done for a shard: the anti-join of its pictures with the rows that are already there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caption_assets.captioning import rows
from caption_assets.captioning.asking import Earlier, is_final
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.stored import key_of, read_failures, read_index
from caption_assets.perspectives import from_arrow_value, source_values

Row = dict[str, Any]
_MEDIA = (
    "media_id", "dataset", "shard", "uri", "etag", "segment", "offset", "length",
    "width", "height", "original_width", "original_height", "source",
)  # fmt: skip
"""What captioning reads of the media table: the metadata can be a hundred times as much."""


class MediaMissing(Exception):
    """A shard has no media yet, so it cannot be captioned."""


@dataclass(frozen=True)
class Answer:
    """An output that others may read."""

    output: Mapping[str, Any]
    digest: str


@dataclass
class PictureWork:
    """One picture and the perspectives that may have to look at it."""

    media: Row
    pending: list[BoundPerspective]
    answers: dict[str, Answer | None] = field(default_factory=dict)
    """Outputs of inputs that are settled; None for one that is missing."""
    existing: dict[str, Row] = field(default_factory=dict)
    """Rows of pending dependents that hold if what they read has not changed; with `output` where others read it."""
    failed: dict[str, Row] = field(default_factory=dict)
    """Settled failures of pending dependents that stand if what they read has not changed."""

    @property
    def media_id(self) -> str:
        """The picture's identity."""
        return str(self.media["media_id"])


@dataclass
class ShardWork:
    """A shard's pictures that need work, and what is settled about the others."""

    shard: Shard
    pictures: list[PictureWork]
    total: int
    """Distinct pictures in the shard."""
    there: dict[str, int]
    """Rows that are already there and hold, by perspective."""
    settled: dict[str, list[Row]]
    """Failures that are not tried again, by perspective."""
    earlier: dict[tuple[str, str], Earlier]
    """What earlier runs tried in vain, by (perspective, media_id)."""
    partial: dict[tuple[str, str], str] = field(default_factory=dict)
    """What earlier runs did of pictures that they could not finish, by (perspective, media_id)."""


def find_work(
    lake: Lake,
    shard: Shard,
    selected: Sequence[BoundPerspective],
    bound: Mapping[str, BoundPerspective],
    *,
    force: bool,
    max_attempts: int,
    away: Collection[tuple[str, str]] = frozenset(),
) -> ShardWork:
    """Compare a shard's media with its rows.

    Args:
        selected: the perspectives to bring up to date, inputs before readers.
        bound: all enabled perspectives: inputs outside `selected` are read from the lake.
        force: redo what is there, and start over with what failed.
        max_attempts: attempts that a failure may have, over all runs.
        away: (uri, etag) of items that are gone from their source, and left alone.

    Raises:
        MediaMissing: the shard has no media index.
    """
    media: dict[str, Row] = {}
    index = read_index(lake, shard, _MEDIA)
    for row in index:
        if key_of(row) not in away:  # of items with the same bytes, the first one's source columns count
            media.setdefault(row["media_id"], row)
    if not index and not read_failures(lake, "media", shard):
        raise MediaMissing(f"shard {shard.key} has no media yet; materialize its media first")
    names = dict.fromkeys([each.name for each in selected] + [name for each in selected for name in each.inputs])
    found = {name: rows.read_rows(lake, bound[name], shard, ["input_digest", "output_digest"]) for name in names}
    settled, earlier, partial = _earlier_failures(lake, shard, selected, None if force else max_attempts)
    finder = _Finder(selected, found, settled, force)
    pictures = [work for row in media.values() if (work := finder.work(row)).pending]
    _load_answers(lake, shard, bound, pictures)
    pending = {name: sum(each.name == name for work in pictures for each in work.pending) for name in names}
    asked = {(each.name, work.media_id) for work in pictures for each in work.pending}
    settled_rows = {
        name: [row for media_id, row in failed.items() if media_id in media and (name, media_id) not in asked]
        for name, failed in settled.items()
    }
    there = {each.name: len(media) - pending[each.name] - len(settled_rows[each.name]) for each in selected}
    return ShardWork(shard, pictures, len(media), there, settled_rows, earlier, partial)


@dataclass
class _Finder:
    selected: Sequence[BoundPerspective]
    found: Mapping[str, Mapping[str, Row]]
    settled: Mapping[str, Mapping[str, Row]]
    force: bool

    def work(self, media: Row) -> PictureWork:
        """The perspectives that have to look at a picture, or may have to once their inputs are known."""
        media_id = media["media_id"]
        work = PictureWork(media, [])
        pending: set[str] = set()
        for each in self.selected:
            row, failed = self.found[each.name].get(media_id), self.settled[each.name].get(media_id)
            waits = any(name in pending for name in each.inputs)
            if row is not None and not self.force:
                if waits:
                    work.existing[each.name] = row
                elif not each.inputs or self._reads_the_same(each, media_id, row):
                    continue
            elif failed is not None:
                if not prompt_source_is(each, media, failed):
                    pass  # another prompt, which nobody has asked yet
                elif waits:
                    work.failed[each.name] = failed
                elif self._reads_the_same(each, media_id, failed):
                    continue
            pending.add(each.name)
            work.pending.append(each)
        return work

    def _reads_the_same(self, each: BoundPerspective, media_id: str, row: Row) -> bool:
        digests = {name: self.found[name].get(media_id, {}).get("output_digest") for name in each.inputs}
        if None in digests.values():
            return True  # an input is missing: what was made of it stays
        now = rows.input_digest({name: str(digest) for name, digest in digests.items()})
        return bool(row.get("input_digest") == now)


def prompt_source_is(bound: BoundPerspective, media: Row, failed: Row) -> bool:
    """Whether a failure is of a prompt that read the source columns as they are now."""
    return bool(failed.get("source_digest") == source_read(bound, media))


def source_read(bound: BoundPerspective, media: Row) -> str | None:
    """Digest of the source columns of a picture that a perspective's prompt reads."""
    return rows.source_digest(source_values(bound.perspective, json.loads(media["source"] or "{}")))


def _earlier_failures(
    lake: Lake, shard: Shard, selected: Sequence[BoundPerspective], max_attempts: int | None
) -> tuple[dict[str, dict[str, Row]], dict[tuple[str, str], Earlier], dict[tuple[str, str], str]]:
    """Settled rows by perspective, and what was tried; nothing of it where `max_attempts` is None."""
    settled: dict[str, dict[str, Row]] = {each.name: {} for each in selected}
    earlier: dict[tuple[str, str], Earlier] = {}
    partial: dict[tuple[str, str], str] = {}
    if max_attempts is None:
        return settled, earlier, partial
    for each in selected:
        for row in read_failures(lake, each.name, shard):
            if row["fingerprint"] != each.fingerprint:
                continue
            read = rows.Digests(row.get("input_digest"), row.get("source_digest"))
            earlier[each.name, row["media_id"]] = Earlier(row["attempts"], row["kind"], read)
            if row.get("partial"):
                partial[each.name, row["media_id"]] = row["partial"]
            if is_final(row["kind"], row["attempts"], max_attempts):
                settled[each.name][row["media_id"]] = row
    return settled, earlier, partial


def _load_answers(
    lake: Lake, shard: Shard, bound: Mapping[str, BoundPerspective], pictures: Sequence[PictureWork]
) -> None:
    """Give each picture the outputs that its pending perspectives read and that need not be made now."""
    wanted: dict[str, list[PictureWork]] = {}
    for work in pictures:
        made = {each.name for each in work.pending} - set(work.existing)
        for name in {name for each in work.pending for name in each.inputs} - made:
            wanted.setdefault(name, []).append(work)
    for name, readers in wanted.items():
        stored = rows.read_rows(lake, bound[name], shard, ["input_digest", "output", "output_digest"])
        for work in readers:
            row = stored.get(work.media_id)
            if name in work.existing and row:
                work.existing[name] = row
            elif name not in {each.name for each in work.pending}:
                work.answers[name] = stored_answer(bound[name], row) if row else None


def stored_answer(bound: BoundPerspective, row: Row) -> Answer:
    """What a stored row says to its readers."""
    return Answer(from_arrow_value(bound.output, row["output"]), row["output_digest"])
