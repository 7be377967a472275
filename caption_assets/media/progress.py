"""Tells people how far a shard is: rate, time to go, failures by kind; also while nothing moves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

_LOOK_SECONDS = 1.0


class ProgressMeter:
    """Counts outcomes, and writes a line every so often.

    Args:
        name: what the lines begin with.
        total: the outcomes to come.
        tell: receives the lines.
        every: seconds between them.
    """

    def __init__(self, name: str, total: int, tell: Callable[[str], None], every: float = 10.0) -> None:
        self._name, self._total, self._tell, self._every = name, total, tell, every
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

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            self._tell(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        to_go = f"{(self._total - self._done) / rate:.0f} s to go" if rate else "no end in sight yet"
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(self._failures.items()))
        failed = f", {self._failures.total()} failed ({kinds})" if kinds else ""
        return f"{self._name}: {self._done}/{self._total} pictures, {rate:.0f}/s, {to_go}{failed}"
