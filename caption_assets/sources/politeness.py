"""What a host may expect of us: few requests at once, no faster than agreed, and its wishes heeded."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from protego import Protego
from yarl import URL

AGENT = "caption-assets"
"""The name by which robots.txt and X-Robots-Tag may address us."""

_DIRECTIVE = re.compile(r"(?:([\w.-]+)\s*:\s*)?([\w-]+)\s*")
_KNOWN_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

FetchText = Callable[[URL], Awaitable[tuple[int, str]]]


class HostGate:
    """Limits how many requests a host gets at once and in a second.

    Args:
        at_once: requests in flight.
        per_second: requests started.
    """

    def __init__(self, at_once: int, per_second: float) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._interval = 1.0 / per_second
        self._next = 0.0

    async def __aenter__(self) -> None:
        """Wait for a place, and for the time."""
        await self._places.acquire()
        try:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
            if turn > now:
                await asyncio.sleep(turn - now)
        except BaseException:
            self._places.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        """Give the place back."""
        self._places.release()


class Robots:
    """The robots.txt of every origin, asked for once.

    Args:
        fetch: reads a robots.txt: status and text. What it raises counts as "not reachable".
    """

    def __init__(self, fetch: FetchText) -> None:
        self._fetch = fetch
        self._rules: dict[URL, asyncio.Task[Protego]] = {}

    async def allows(self, url: URL) -> bool:
        """Whether we may fetch a URL. Raises what the fetch of an unreachable robots.txt raises."""
        origin = url.origin()
        task = self._rules.get(origin)
        if task is None:
            task = self._rules[origin] = asyncio.create_task(self._read(origin))
        try:
            rules = await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._rules.pop(origin, None)  # asked for again by the next one
            raise
        return bool(rules.can_fetch(str(url), AGENT))

    async def _read(self, origin: URL) -> Protego:
        status, text = await self._fetch(origin.with_path("/robots.txt"))
        return Protego.parse(text if status == 200 else "")


def opted_out(headers: Iterable[str], refused: Collection[str]) -> str | None:
    """The first of the refused directives in X-Robots-Tag headers that are addressed to all or to us."""
    for header in headers:
        addressee = ""
        for part in header.lower().split(","):
            match = _DIRECTIVE.match(part.strip())
            if not match:
                continue
            name, directive = match.groups()
            if name and name not in _KNOWN_WITH_VALUE:
                addressee = name  # holds for what follows, too
            if addressee in ("", AGENT, "*") and directive in refused and name not in _KNOWN_WITH_VALUE:
                return directive
    return None


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for; 0 where it asks for nothing that can be understood."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
