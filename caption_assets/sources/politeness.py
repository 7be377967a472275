"""What a host may expect of us: few requests at once, no faster than agreed, and its wishes heeded."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from protego import Protego
from yarl import URL

from caption_assets.config.datasets import Web
from caption_assets.sources.base import FetchError

AGENT = "caption-assets"
"""The name by which robots.txt and X-Robots-Tag may address us."""

_KEPT = 4096
_KEPT_TEXT = 16 << 20
_DIRECTIVE = re.compile(r"(?:([\w.*-]+)(?:/[\w.]+)?\s*:\s*)?([\w-]+)\s*")
_KNOWN_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

FetchText = Callable[[URL], Awaitable[tuple[int, str]]]


class HostGate:
    """Limits how many requests a host gets at once and in a second, and leaves it alone when it gives no answer.

    Args:
        web: `per_host` requests in flight, `per_second` started, `dead_after` and `dead_seconds`.
    """

    def __init__(self, web: Web) -> None:
        self._web = web
        self._places = asyncio.Semaphore(web.per_host)
        self._next = self._alone_until = 0.0
        self._unanswered = self._users = 0

    async def __aenter__(self) -> HostGate:
        """Wait for a place, and for the time. Raises FetchError where the host is left alone."""
        self._users += 1
        try:
            await self._places.acquire()
            try:
                await self._turn()
            except BaseException:
                self._places.release()
                raise
        except BaseException:
            self._users -= 1
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Give the place back."""
        self._users -= 1
        self._places.release()

    @property
    def idle(self) -> bool:
        """Whether nobody needs it, so that a new one would do as well."""
        return not self._users and self._next <= time.monotonic()

    def answered(self) -> None:
        """The host is there, whatever it says."""
        self._unanswered = 0

    def unanswered(self) -> None:
        """A request got no answer."""
        self._unanswered += 1
        if self._unanswered >= self._web.dead_after:
            self._alone_until = time.monotonic() + self._web.dead_seconds  # then one more such answer is enough

    async def _turn(self) -> None:
        self._raise_if_alone()
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + 1.0 / self._web.per_second
        if turn > now:
            await asyncio.sleep(turn - now)
            self._raise_if_alone()

    def _raise_if_alone(self) -> None:
        if time.monotonic() < self._alone_until:
            raise FetchError("unreachable", f"its host gave no answer {self._web.dead_after} times in a row")


class HostGates:
    """The gate of every host; of many hosts those used last.

    Args:
        web: see HostGate.
        kept: how many idle ones are kept.
    """

    def __init__(self, web: Web, kept: int = _KEPT) -> None:
        self._web, self._kept = web, kept
        self._gates: OrderedDict[str, HostGate] = OrderedDict()

    def of(self, host: str) -> HostGate:
        """The gate of a host, to be entered at once."""
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = HostGate(self._web)
            self._make_room(gate)
        self._gates.move_to_end(host)
        return gate

    def __len__(self) -> int:
        """How many there are now."""
        return len(self._gates)

    def _make_room(self, new: HostGate) -> None:
        while len(self._gates) > self._kept:
            idle = next((host for host, gate in self._gates.items() if gate.idle and gate is not new), None)
            if idle is None:
                return
            del self._gates[idle]


class Robots:
    """The robots.txt of every origin, asked for once; of many origins those used last.

    Args:
        fetch: reads a robots.txt: status and text. What it raises counts as "not reachable".
        kept: how many are kept.
        kept_text: characters of them that are kept.
    """

    def __init__(self, fetch: FetchText, kept: int = _KEPT, kept_text: int = _KEPT_TEXT) -> None:
        self._fetch, self._kept, self._kept_text = fetch, kept, kept_text
        self._rules: OrderedDict[URL, asyncio.Task[Protego]] = OrderedDict()
        self._lengths: dict[URL, int] = {}
        self._text = 0

    async def allows(self, url: URL) -> bool:
        """Whether we may fetch a URL. Raises what the fetch of an unreachable robots.txt raises."""
        origin = url.origin()
        task = self._rules.get(origin)
        if task is None:
            task = self._rules[origin] = asyncio.create_task(self._read(origin))
        self._rules.move_to_end(origin)
        try:
            rules = await asyncio.shield(task)
        except BaseException:
            if task.done() and self._rules.get(origin) is task:
                self._forget(origin)  # asked for again by the next one
            raise
        return bool(rules.can_fetch(str(url), AGENT))

    def __len__(self) -> int:
        """How many there are now."""
        return len(self._rules)

    async def _read(self, origin: URL) -> Protego:
        status, text = await self._fetch(origin.with_path("/robots.txt"))
        rules = text if status == 200 else ""
        self._lengths[origin] = len(rules)
        self._text += len(rules)
        self._make_room()
        return Protego.parse(rules)

    def _make_room(self) -> None:
        """Forget those used longest ago; never one that is still being read."""
        while len(self._rules) > self._kept or self._text > self._kept_text:
            read = next((origin for origin, task in self._rules.items() if task.done()), None)
            if read is None:
                return
            self._forget(read)

    def _forget(self, origin: URL) -> None:
        del self._rules[origin]
        self._text -= self._lengths.pop(origin, 0)


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
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
