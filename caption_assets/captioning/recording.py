"""Turns outcomes into rows: captions, copies of captions paid for elsewhere, failures, and the shard's numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from caption_assets.captioning import rows
from caption_assets.captioning.asking import NEVER, Answered, AskFailure, Earlier, is_final
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.report import LookReport, ShardReport
from caption_assets.captioning.work import Answer, PictureWork, Row, ShardWork, stored_answer
from caption_assets.lake import layout, tables
from caption_assets.lake.erasing import erase
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.tombstones import read_tombstones
from caption_assets.media.shard import read_failures
from caption_assets.perspectives import to_arrow_value


@dataclass(frozen=True)
class Provenance:
    """Who makes the rows."""

    run_id: str
    contributor: str
    max_attempts: int


@dataclass
class ShardRecorder:
    """The rows and numbers of one shard while it is captioned."""

    work: ShardWork
    provenance: Provenance
    report: ShardReport
    reusable: dict[str, dict[tuple[str, rows.Digests], Row]]
    """Rows of other shards for pending pictures, by perspective, and media_id and what they were made from."""
    failures: dict[str, list[Row]]
    remaining: int = 0
    """Pictures that are not at their end yet."""
    selected: list[BoundPerspective] = field(default_factory=list)
    loaded_before: float = 0.0
    """Seconds that loading the engine had taken when the shard was opened."""
    restarts_before: int = 0
    """How often it had died by then."""

    @classmethod
    def open(
        cls, lake: Lake, work: ShardWork, selected: list[BoundPerspective], provenance: Provenance, *, reuse: bool
    ) -> ShardRecorder:
        """Start recording; looks up what other shards have for the pending pictures."""
        looks: dict[str, LookReport] = {}
        reusable: dict[str, dict[tuple[str, rows.Digests], Row]] = {}
        for each in selected:
            settled = work.settled[each.name]
            look = LookReport(each, work.shard, work.total, work.there[each.name], len(settled), failed=len(settled))
            look.failure_kinds.update(row["kind"] for row in settled)
            looks[each.name] = look
            wanted = [one.media_id for one in work.pictures if each in one.pending and each.name not in one.existing]
            reusable[each.name] = rows.find_elsewhere(lake, each, work.shard, wanted) if reuse else {}
        failures = {each.name: list(work.settled[each.name]) for each in selected}
        report = ShardReport(work.shard, looks)
        return cls(work, provenance, report, reusable, failures, len(work.pictures), selected)

    def already(self, picture: PictureWork, bound: BoundPerspective, read: rows.Digests) -> Answer | None:
        """The answer of a row that is there and still holds; nothing is written."""
        row = picture.existing.get(bound.name)
        if row is None or row["input_digest"] != read.inputs:
            return None
        self.report.looks[bound.name].there += 1
        if "output" in row:
            return stored_answer(bound, row)
        return Answer({}, row["output_digest"])  # nobody reads it

    def elsewhere(self, picture: PictureWork, bound: BoundPerspective, read: rows.Digests) -> tuple[Answer, Row] | None:
        """The answer that another shard already has, and the copy of its row for this shard."""
        row = self.reusable[bound.name].get((picture.media_id, read))
        if row is None:
            return None
        self.report.looks[bound.name].reused += 1
        copy = {**row, "reused_from": row["reused_from"] or row["shard"]}
        return stored_answer(bound, row), self._complete(bound, copy, contributor=row["contributor"])

    def caption(
        self, picture: PictureWork, bound: BoundPerspective, answered: Answered, read: rows.Digests, seconds: float
    ) -> tuple[Answer, Row]:
        """The answer of the engine, and its row."""
        reply = answered.reply
        answer = Answer(answered.output, rows.output_digest(answered.output))
        look = self.report.looks[bound.name]
        look.done += 1
        look.prompt_tokens += reply.prompt_tokens
        look.cached_tokens += reply.cached_tokens
        look.completion_tokens += reply.completion_tokens
        look.spent.add(answered.spent)
        look.smaller += answered.smaller
        row = {
            "media_id": picture.media_id,
            "input_digest": read.inputs,
            "source_digest": read.source,
            "output_digest": answer.digest,
            "output": to_arrow_value(bound.output, answered.output),
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "cached_tokens": reply.cached_tokens,
            "completion_tokens": reply.completion_tokens,
            "attempts": self.earlier(picture, bound, read).attempts + answered.attempts,
            "seconds": seconds,
        }
        return answer, self._complete(bound, row, contributor=self.provenance.contributor)

    def fail(self, picture: PictureWork, bound: BoundPerspective, failure: AskFailure) -> None:
        """Keep a failure for the shard's failure file."""
        look = self.report.looks[bound.name]
        before = self.earlier(picture, bound, failure.read)
        read = failure.read or before.read
        attempts = before.attempts + failure.attempts
        look.failed += 1
        look.failure_kinds[failure.kind] += 1
        look.spent.add(failure.spent)
        self.failures[bound.name].append(
            {
                "stage": bound.name,
                "dataset": self.work.shard.dataset,
                "shard": self.work.shard.key,
                "media_id": picture.media_id,
                "fingerprint": bound.fingerprint,
                "kind": failure.kind,
                "message": str(failure)[:1000],
                "attempts": attempts,
                "retryable": not is_final(failure.kind, attempts, self.provenance.max_attempts),
                "partial": failure.partial or self.work.partial.get((bound.name, picture.media_id)),
                "input_digest": read.inputs,
                "source_digest": read.source,
                "run_id": self.provenance.run_id,
                "created_at": tables.now(),
            }
        )

    def still_failed(self, picture: PictureWork, bound: BoundPerspective, inputs: str | None) -> bool:
        """Whether a settled failure stands; its row is kept then.

        Args:
            inputs: digest of what the perspective reads now; None where some of it is missing.
        """
        row = picture.failed.get(bound.name)
        if row is None or inputs not in {None, row["input_digest"]}:
            return False
        look = self.report.looks[bound.name]
        look.failed += 1
        look.failure_kinds[row["kind"]] += 1
        self.failures[bound.name].append(row)
        return True

    def seal(self, lake: Lake, load_seconds: float, restarts: int) -> None:
        """Write the failures and seal the rows, once all of them are durable. What was deleted meanwhile is left out.

        Args:
            load_seconds: what the engine's loading has taken by now, whenever that was.
            restarts: how often it has died by now.
        """
        shard, deleted = self.work.shard, read_tombstones(lake).media_ids
        for each in self.selected:
            path = layout.failures_file(each.name, shard)
            if self.failures[each.name] or lake.exists(path):
                self._write_failures(lake, each, self.failures[each.name], deleted)
            rows.seal(lake, each, shard, self.provenance.run_id, deleted)
        erase(lake, read_tombstones(lake).media_ids - deleted, shard)
        ended = tables.now()
        for look in self.report.looks.values():
            look.ended_at = ended
            look.load_seconds = load_seconds - self.loaded_before
            look.restarts = restarts - self.restarts_before

    def abandon(self, lake: Lake) -> None:
        """Add the failures to those of earlier runs, so that the attempts count, though the shard is not finished."""
        deleted = read_tombstones(lake).media_ids
        for each in self.selected:
            if failed := self.failures[each.name][len(self.work.settled[each.name]) :]:
                mine = {row["media_id"] for row in failed}
                before = [
                    row
                    for row in read_failures(lake, each.name, self.work.shard)
                    if row["fingerprint"] == each.fingerprint and row["media_id"] not in mine
                ]
                self._write_failures(lake, each, before + failed, deleted)

    def earlier(self, picture: PictureWork, bound: BoundPerspective, read: rows.Digests | None) -> Earlier:
        """What earlier runs tried in vain, for a prompt that reads this; None: for whatever prompt."""
        found = self.work.earlier.get((bound.name, picture.media_id), NEVER) if self.work.earlier else NEVER
        return found if read is None or read == found.read else Earlier(read=read)

    def _write_failures(self, lake: Lake, bound: BoundPerspective, failed: list[Row], deleted: Collection[str]) -> None:
        if failed:  # another run may have had better luck meanwhile: a picture has one row, and the caption counts
            gone = rows.read_rows(lake, bound, self.work.shard, []).keys() | deleted
            failed = [row for row in failed if row["media_id"] not in gone]
        path = layout.failures_file(bound.name, self.work.shard)
        lake.write(path, table_bytes(tables.table(failed, tables.FAILURES)))

    def _complete(self, bound: BoundPerspective, row: dict[str, Any], *, contributor: str) -> Row:
        return {
            **row,
            "dataset": self.work.shard.dataset,
            "shard": self.work.shard.key,
            "perspective": bound.name,
            "fingerprint": bound.fingerprint,
            "model": bound.model,
            "revision": bound.revision,
            "contributor": contributor,
            "run_id": self.provenance.run_id,
            "created_at": tables.now(),
        }
