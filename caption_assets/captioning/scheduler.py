"""The per-picture scheduler: all perspectives of a picture go to the engine together, across shards without a barrier.

A picture's perspectives are tasks that wait for their inputs only, so a synthesis starts as soon as its own inputs are
there. Pictures are read and decoded ahead by a few threads, and admitted while the engine has room; the next shard's
pictures flow while the last ones of this one finish. Files are written by one thread, in the order asked for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from caption_assets.captioning import rows
from caption_assets.captioning.asking import Answered, AskFailure, ask, first_request
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.reading import PictureReader, ReadAhead
from caption_assets.captioning.recording import Provenance, ShardRecorder
from caption_assets.captioning.regions import RegionAsker, RegionLook
from caption_assets.captioning.report import Progress, ShardReport
from caption_assets.captioning.rows import Part, PartBuffer, PartWriter
from caption_assets.captioning.work import Answer, PictureWork, Row, ShardWork, source_read
from caption_assets.config import Captions
from caption_assets.engine.lazy import LazyEngine
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.perspectives import Perspective, PromptError, render_prompt

_DECODERS = 2
_READ_AHEAD = 32
_HELD_BYTES = 1 << 30
"""Of all pictures read ahead or before the engine at once: 256 of a megapixel, decoded."""
_TICK_SECONDS = 1.0

Answers = dict[str, asyncio.Future[Answer | None]]


class BreakerTripped(Exception):
    """Too large a share of the captions failed; the run stopped early and kept what succeeded."""


class Scheduler:
    """Captions the work of some shards with one engine, in one event loop.

    Args:
        selected: the perspectives to bring up to date, inputs before readers.
        readable: every perspective that may be read, by name.
        find: computes a shard's work when its turn comes; runs in a thread.
        report: called when a shard is sealed.
        progress: called about every ten seconds.
        force: redo what is there.
        decode: whether the engine wants pixels; else it is given the files as they are stored.
    """

    def __init__(
        self,
        lake: Lake,
        engine: LazyEngine,
        selected: list[BoundPerspective],
        readable: Mapping[str, Perspective],
        settings: Captions,
        run_id: str,
        *,
        find: Callable[[Shard], ShardWork],
        report: Callable[[ShardReport], None],
        progress: Callable[[Progress], None],
        force: bool,
        decode: bool = True,
    ) -> None:
        self._lake, self._engine, self._selected, self._readable = lake, engine, selected, readable
        self._settings, self._provenance = settings, Provenance(run_id, settings.contributor, settings.max_attempts)
        self._find, self._report, self._progress = find, report, progress
        self._force = force
        self._buffer, self._writer = PartBuffer(), PartWriter(lake, run_id)
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="lake")
        self._reader = PictureReader(lake, self._decoders, pixels=decode, wait_for_core=engine.wait_for_core)
        self._regions = RegionAsker(engine, settings.max_attempts, self._decoders)
        self._outstanding = 0
        self._room = asyncio.Event()
        engine.loaded = self._room.set  # from then on there is room for all that it can take
        self._done = self._tokens = 0
        self._failed: Counter[str] = Counter()
        self._started = time.monotonic()
        self._unfinished: dict[Shard, ShardRecorder] = {}

    async def run(self, shards: Iterable[Shard]) -> None:
        """Caption the shards in order. What was answered is durable when this returns or raises.

        Raises:
            BreakerTripped: too many failures.
            EngineFailure: the engine is gone (fatal).
            MediaMissing: a shard has no media.
            LakeFull: there is no room for the rows.
        """
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                async for recorder, picture, ahead in self._ahead(shards):
                    while self._outstanding >= self._engine.max_in_flight:
                        await self._more_room()
                    self._outstanding += len(picture.pending)
                    group.create_task(self._picture(recorder, picture, ahead))
                ticker.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            try:
                self._disk.submit(self._keep).result()
            finally:
                self._decoders.shutdown(wait=False, cancel_futures=True)
                self._disk.shutdown(wait=True)

    def _keep(self) -> None:
        """Make durable what there is of shards that are not finished, failures included."""
        self._writer.write(self._buffer.take())
        for recorder in self._unfinished.values():
            recorder.abandon(self._lake)

    def progress(self) -> Progress:
        """Where the run stands. May be called from another thread."""
        loaded = self._engine.load_seconds
        begun = list(self._unfinished.values())
        looks = [
            look.progress(loaded - recorder.loaded_before)
            for recorder in begun
            for look in recorder.report.looks.values()
        ]
        return Progress(looks, self._tokens / max(time.monotonic() - self._started, 1e-9))

    async def _ahead(self, shards: Iterable[Shard]) -> AsyncIterator[tuple[ShardRecorder, PictureWork, ReadAhead]]:
        """Pictures of all shards in order, read ahead."""
        loop = asyncio.get_running_loop()
        waiting: deque[tuple[ShardRecorder, PictureWork, ReadAhead]] = deque()
        for shard in shards:
            recorder = await loop.run_in_executor(self._disk, self._open, shard)
            if not recorder.remaining:
                await self._seal(recorder)
            pictures, together = recorder.work.pictures, self._reader.together
            for start in range(0, len(pictures), together):
                while len(waiting) > _READ_AHEAD or (waiting and self._reader.held > _HELD_BYTES):
                    yield waiting.popleft()
                while self._reader.held > _HELD_BYTES:  # all before the engine
                    await self._more_room()
                group = pictures[start : start + together]
                waiting.extend(zip(repeat(recorder), group, self._reader.start(group), strict=False))
        while waiting:
            yield waiting.popleft()

    async def _more_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    def _open(self, shard: Shard) -> ShardRecorder:
        work = self._find(shard)
        recorder = ShardRecorder.open(self._lake, work, self._selected, self._provenance, reuse=not self._force)
        recorder.loaded_before, recorder.restarts_before = self._engine.load_seconds, self._engine.restarts
        self._unfinished[shard] = recorder
        return recorder

    async def _picture(self, recorder: ShardRecorder, picture: PictureWork, ahead: ReadAhead) -> None:
        """Bring all pending perspectives on one picture to their end."""
        loop = asyncio.get_running_loop()
        answers: Answers = {each.name: loop.create_future() for each in picture.pending}
        for name, known in picture.answers.items():
            answers[name] = loop.create_future()
            answers[name].set_result(known)
        if len(picture.pending) == 1:  # a task of its own costs more than the rest of this method
            await self._look(recorder, picture, picture.pending[0], ahead, answers)
        else:
            async with asyncio.TaskGroup() as group:
                for each in picture.pending:
                    group.create_task(self._look(recorder, picture, each, ahead, answers))
        recorder.remaining -= 1
        if not recorder.remaining:
            await self._seal(recorder)

    async def _look(
        self, recorder: ShardRecorder, picture: PictureWork, bound: BoundPerspective, ahead: ReadAhead, answers: Answers
    ) -> None:
        """Bring one perspective on one picture to its end: a row, or a failure row."""
        answer: Answer | None = None
        row: Row | None = None
        try:
            inputs = {name: await answers[name] for name in bound.inputs}
            if outcome := await self._answer(recorder, picture, bound, ahead, inputs):
                answer, row = outcome
        except AskFailure as failure:
            recorder.fail(picture, bound, failure)
            self._count_failure(failure)
        # Not when the run ends here: nobody is to record that an input is missing.
        self._outstanding -= 1
        if bound.perspective.image:
            self._reader.looked(ahead)
        self._room.set()
        answers[bound.name].set_result(answer)
        if row and (part := self._buffer.append(bound, recorder.work.shard, row)):
            await self._write([part])

    async def _answer(
        self,
        recorder: ShardRecorder,
        picture: PictureWork,
        bound: BoundPerspective,
        ahead: ReadAhead,
        inputs: dict[str, Answer | None],
    ) -> tuple[Answer, Row | None] | None:
        """The output and the row to write for it, from the cheapest place that has it; None where an earlier run's
        failure stands. Raises AskFailure."""
        read = {name: answer for name, answer in inputs.items() if answer is not None}
        if missing := sorted(inputs.keys() - read.keys()):
            if recorder.still_failed(picture, bound, None):
                return None
            raise AskFailure("input_missing", f"no output of {', '.join(missing)} yet", attempts=0)
        digests = rows.Digests(
            rows.input_digest({name: answer.digest for name, answer in read.items()}), source_read(bound, picture.media)
        )
        if recorder.still_failed(picture, bound, digests.inputs):
            return None
        if there := recorder.already(picture, bound, digests):
            return there, None
        if copied := recorder.elsewhere(picture, bound, digests):
            return copied
        outputs = {name: answer.output for name, answer in read.items()}
        started = time.monotonic()
        try:
            answered = await self._ask(recorder, picture, bound, ahead, outputs, digests)
        except AskFailure as failure:
            failure.read = digests
            raise
        self._done += 1
        self._tokens += answered.reply.completion_tokens
        return recorder.caption(picture, bound, answered, digests, time.monotonic() - started)

    async def _ask(
        self,
        recorder: ShardRecorder,
        picture: PictureWork,
        bound: BoundPerspective,
        ahead: ReadAhead,
        outputs: Mapping[str, Mapping[str, Any]],
        digests: rows.Digests,
    ) -> Answered:
        """Ask the engine: about the picture, or about each of its regions. Raises AskFailure."""
        source = json.loads(picture.media["source"] or "{}")

        def text(region: Mapping[str, Any] | None = None) -> str:
            try:
                return render_prompt(bound.perspective, outputs, source, self._readable, region)
            except PromptError as error:
                raise AskFailure("prompt", str(error), attempts=0) from None

        request_id = f"{recorder.work.shard.key}/{picture.media_id[:16]}/{bound.name}"
        earlier = recorder.earlier(picture, bound, digests)
        if bound.perspective.regions:
            partial = recorder.work.partial.get((bound.name, picture.media_id))
            look = RegionLook(bound, request_id, picture.media, outputs, digests, partial, earlier, text, ahead.image)
            return await self._regions.ask(look)
        image = await ahead.image() if bound.perspective.image else None
        request = first_request(bound, request_id, text(), image, picture.media_id if image else None)
        return await ask(self._engine, bound, request, self._settings.max_attempts, earlier)

    def _count_failure(self, failure: AskFailure) -> None:
        """Trip the breaker when too large a share of the outcomes are failures."""
        if failure.kind == "input_missing":
            return  # the input's own failure has been counted
        self._failed[failure.kind] += 1
        failed = self._failed.total()
        outcomes = failed + self._done
        if outcomes >= self._settings.breaker_after and failed > self._settings.max_failure_share * outcomes:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(self._failed.items()))
            raise BreakerTripped(
                f"stopped early: {failed} of {outcomes} captions failed ({kinds}), more than the share of "
                f"{self._settings.max_failure_share:g} that captions.max_failure_share allows"
            )

    async def _seal(self, recorder: ShardRecorder) -> None:
        """Make a shard's rows durable, seal its files, and report it."""
        await self._write(self._buffer.take(shard=recorder.work.shard))
        loaded, restarts = self._engine.load_seconds, self._engine.restarts
        await asyncio.get_running_loop().run_in_executor(self._disk, recorder.seal, self._lake, loaded, restarts)
        del self._unfinished[recorder.work.shard]
        self._report(recorder.report)

    async def _write(self, parts: list[Part]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, self._writer.write, parts)

    async def _tick(self) -> None:
        told = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self._write(self._buffer.take(aged=True))
            if self._unfinished and time.monotonic() - told >= rows.FLUSH_SECONDS:
                told = time.monotonic()
                self._progress(self.progress())


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception of nested groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
