"""One captioning run: the scheduler in a thread of its own, its reports as an iterator for whoever drives it."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import uvloop

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.report import ShardReport
from caption_assets.captioning.scheduler import Scheduler
from caption_assets.captioning.work import ShardWork, find_work
from caption_assets.config import PipelineConfig
from caption_assets.engine.lazy import DeviceWaited, LazyEngine, OpenEngine
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import EngineFailure
from caption_assets.lake.departures import hidden
from caption_assets.lake.heartbeats import Heartbeat, LookProgress
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.deletion import complete_deletions

_JOIN_SECONDS = 30.0
_COLLECT_AFTER = 50_000
"""Objects more than before, until cycles among them are looked for: answers leave none, and hundreds are under way."""


class CaptionRun:
    """Captions shards in a background thread; iterate over it for a report per shard as each is sealed.

    Args:
        selected: perspectives of one engine, inputs before readers.
        bound: all enabled perspectives by name.
        tell: receives lines for people, from other threads.
        open_: how the engine is opened when the first picture needs it.
    """

    def __init__(
        self,
        config: PipelineConfig,
        lake: Lake,
        selected: Sequence[BoundPerspective],
        bound: Mapping[str, BoundPerspective],
        shards: Sequence[Shard],
        run_id: str,
        *,
        force: bool = False,
        tell: Callable[[str], None] = lambda line: None,
        open_: OpenEngine = open_engine,
    ) -> None:
        self._open_engine = open_
        self._config, self._lake, self._run_id, self._force, self._tell = config, lake, run_id, force, tell
        self._selected, self._bound, self._left = list(selected), dict(bound), dict.fromkeys(shards)
        self._reports: queue.SimpleQueue[ShardReport | BaseException | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._scheduler_now: Scheduler | None = None
        self._heartbeat = Heartbeat(
            lake,
            run_id,
            "captions",
            {each.name: each.fingerprint for each in selected},
            self._left,
            config.captions.contributor,
        )
        self._thread = threading.Thread(target=self._work, name="captions", daemon=True)

    def __iter__(self) -> Iterator[ShardReport]:
        """Reports in the order in which shards finish.

        Raises:
            BreakerTripped, EngineFailure, MediaMissing, LakeFull: as the scheduler does; what succeeded is durable.
        """
        self._heartbeat.watch(self._looks)
        with self._heartbeat:
            self._thread.start()
            try:
                while (outcome := self._reports.get()) is not None:
                    if isinstance(outcome, BaseException):
                        if self._cancelled:
                            self._heartbeat.end("cancelled")
                        raise outcome
                    yield outcome
            finally:
                self.cancel()

    def cancel(self) -> None:
        """Stop, keeping all answers that are there; returns when they are durable."""
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop is closed: the run is at its end
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=_JOIN_SECONDS)

    def _work(self) -> None:
        gc.freeze()  # what is there by now stays: each of the many collections to come would look at it again
        often = gc.get_threshold()
        gc.set_threshold(_COLLECT_AFTER, *often[1:])
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            self._reports.put(EngineFailure("engine", "the run was cancelled", retryable=True))
        except BaseException as error:
            self._reports.put(error)
        else:
            self._reports.put(None)
        finally:
            gc.set_threshold(*often)
            gc.unfreeze()

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled:  # before there was anything to cancel
            raise asyncio.CancelledError
        engine = LazyEngine(self._config, self._selected[0].engine, self._open_engine, self._tell)
        try:
            while True:
                try:
                    self._scheduler_now = self._scheduler(engine)
                    return await self._scheduler_now.run(list(self._left))
                except DeviceWaited:
                    pass  # and looks afresh at what is missing
        finally:
            engine.close()

    def _scheduler(self, engine: LazyEngine) -> Scheduler:
        return Scheduler(
            self._lake,
            engine,
            self._selected,
            {name: each.output for name, each in self._bound.items()},
            self._config.captions,
            self._run_id,
            find=self._find,
            report=self._finished,
            progress=lambda progress: self._tell(str(progress)),
            force=self._force,
            decode=self._kind != "openai",
        )

    @property
    def _kind(self) -> str:
        return self._config.engines[self._selected[0].engine].kind

    def _looks(self) -> Sequence[LookProgress]:
        scheduler = self._scheduler_now
        return scheduler.progress().looks if scheduler else ()

    def _finished(self, report: ShardReport) -> None:
        del self._left[report.shard]
        self._heartbeat.finished(report.shard)
        self._reports.put(report)

    def _find(self, shard: Shard) -> ShardWork:
        complete_deletions(self._lake, shard, self._run_id)
        attempts = self._config.captions.max_attempts
        dataset = self._config.datasets.get(shard.dataset)
        away = hidden(self._lake, shard.dataset, retain=dataset is not None and dataset.retain)
        return find_work(
            self._lake, shard, self._selected, self._bound, force=self._force, max_attempts=attempts, away=away
        )
