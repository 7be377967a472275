"""Tells people how far a shard is: rate, time to go, failures by kind; also while nothing moves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from caption_assets.lake.heartbeats import MEDIA, LookProgress
from caption_assets.lake.layout import Shard

_LOOK_SECONDS = 1.0


class ProgressMeter:
    """Counts outcomes, and writes a line every so often.

    Args:
        total: the outcomes to come.
        tell: receives the lines.
        kept: items that are at their end already, besides.
        every: seconds between them.
    """

    def __init__(
        self, shard: Shard, total: int, tell: Callable[[str], None], *, kept: int = 0, every: float = 10.0
    ) -> None:
        self._shard, self._total, self._tell, self._every, self._kept = shard, total, tell, every, kept
        self._started = self._told = time.monotonic()
        self._done = 0
        self._failures: Counter[str] = Counter()

    def count(self, failure_kind: str | None = None) -> None:
        """One more is done: a picture, or a failure of some kind."""
        self._done += 1
        if failure_kind is not None:
            self._failures[failure_kind] += 1
        self._tick()

    def wait_for(self, future: Future[Any]) -> None:
        """Return when the future is done, however it ended."""
        while not future.done():
            try:
                future.exception(timeout=min(self._every, _LOOK_SECONDS))
            except TimeoutError:
                self._tick()
            except CancelledError:
                return

    def progress(self) -> LookProgress:
        """Where the shard stands now. May be called from another thread."""
        seconds = time.monotonic() - self._started
        failed = dict(self._failures)
        gone = sum(failed.values())
        return LookProgress(
            self._shard.dataset,
            self._shard.key,
            MEDIA,
            None,
            self._kept + self._total,
            self._kept + self._done - gone,
            gone,
            failed,
            self._done / seconds if seconds > 0 else 0.0,
        )

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            self._tell(f"{self._shard.key}: {self.progress()}")
