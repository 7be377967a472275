"""Limits on requests: token buckets for what a provider allows, and a concurrency that finds what a server bears."""

from __future__ import annotations

import asyncio

_BURST_SECONDS = 1.0
_LATENCY_FACTOR = 1.5
_SHORT, _LONG = 0.1, 0.005
"""How much one answer counts in the recent and in the usual latency."""


class TokenBucket:
    """So much a minute, evenly: bursts are bounded by what one second allows. First come, first served.

    Args:
        per_minute: the rate; None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._rate = None if per_minute is None else per_minute / 60
        self._capacity = 0.0 if self._rate is None else max(1.0, self._rate * _BURST_SECONDS)
        self._level = self._capacity
        self._at: float | None = None

    async def take(self, amount: float) -> None:
        """Wait until `amount` is allowed. More than a burst is allowed, too: it is paid off afterwards."""
        if self._rate is None:
            return
        self._spend(amount)
        if self._level >= 0:
            return
        try:
            await asyncio.sleep(-self._level / self._rate)
        except asyncio.CancelledError:
            self._spend(-amount)
            raise

    def settle(self, estimated: float, actual: float) -> None:
        """Correct an amount that was taken by an estimate."""
        if self._rate is not None:
            self._spend(actual - estimated)

    def _spend(self, amount: float) -> None:
        assert self._rate is not None
        now = asyncio.get_running_loop().time()
        gained = 0.0 if self._at is None else (now - self._at) * self._rate
        self._at = now
        self._level = min(self._capacity, self._level + gained) - amount


class AdaptiveLimit:
    """A server's concurrency: grows by one for each full round of answers, halves when the server says it is too much.

    It grows only while latency holds: while the recent one is below one and a half times the usual one. Means, not
    minima, for perspectives differ in what they take.

    Args:
        start: the first limit.
        top: the highest limit.
    """

    def __init__(self, start: int, top: int) -> None:
        self._limit, self._top = float(start), top
        self._recent = self._usual = 0.0
        self._cut_at = float("-inf")

    @property
    def value(self) -> int:
        """Requests that may be under way at once; at least one."""
        return int(self._limit)

    def answered(self, seconds: float) -> None:
        """Learn from an answer."""
        self._recent += _SHORT * (seconds - self._recent) if self._recent else seconds
        self._usual += _LONG * (seconds - self._usual) if self._usual else seconds
        if self._recent <= _LATENCY_FACTOR * self._usual:
            self._limit = min(self._limit + 1 / self._limit, float(self._top))

    def overloaded(self, started: float, now: float) -> None:
        """Learn from a 429 or 503: halve, once for all the requests that were under way together."""
        if started >= self._cut_at:
            self._limit = max(1.0, self._limit / 2)
            self._cut_at = now
