"""The servers of a pool: who takes the next request, who is away, and when all hope is gone."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from caption_assets.engine.openai_limits import AdaptiveLimit
from caption_assets.engine.openai_payload import FORMATS, Format, Limit
from caption_assets.engine.protocol import EngineFailure

_STRIKES = 3
_FIRST_PROBE_SECONDS = 0.2
_MAX_PROBE_SECONDS = 5.0
_BREATH_SECONDS = 1.0
_MAX_BREATH_SECONDS = 300.0
_LAST_SECONDS = 5.0
"""How long answers that are under way are waited for when no server is left."""
_FAVOUR = 4
"""More requests under way that a server may have than the least busy one and still get a picture it knows."""


class Server:
    """One server: what is under way there, what it bears, and what is known of its ways."""

    def __init__(self, url: str, limit: AdaptiveLimit) -> None:
        self.url, self.limit = url, limit
        self.completions = f"{url}/chat/completions"
        self.outstanding = 0
        self.answered = 0
        self.away: str | None = None
        """Why it is out of the pool; None: it is in."""
        self.gone = False
        """Whether it is out for good."""
        self.paused_until = 0.0
        self.strikes = 0
        self.probes = 0
        """Health checks since its last answer."""
        self.probe_at = 0.0
        self.form: Format | None = None
        """How it takes schemas, once an answer has shown it."""
        self.first_form: Format = FORMATS[0]
        """What to try as long as none has."""
        self.schema_forms: dict[int, Format] = {}
        """The same for schemas that it did not take that way, by id."""
        self.echoes_id = self.echoes_model = False
        self.limit_field: Limit = "max_tokens"
        self.keeps_pictures = False
        """Whether a picture that it got with a name may be asked about by the name alone."""
        self.named = self.missed = 0
        """Answers to such requests, and names that it did not know though it had answered them."""
        self.departures = 0
        """How often it left the pool: it forgets pictures when it starts anew."""


Wish = Callable[[], Server | None]
"""The server that a request would like best, when its turn comes."""


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[Server]
    wish: Wish


class ServerPool:
    """Hands out places at servers, and keeps those that fail out of the way until they answer a health check.

    Args:
        urls: base URLs.
        max_in_flight: requests under way at once, over all servers.
        give_up_seconds: how long all servers may be away.
        probe: whether a server is healthy.
        tell: receives lines for people.
    """

    def __init__(
        self,
        urls: Sequence[str],
        max_in_flight: int,
        give_up_seconds: float,
        probe: Callable[[Server], Awaitable[bool]],
        tell: Callable[[str], None],
    ) -> None:
        share = -(-max_in_flight // len(urls))
        self.servers = [Server(url, AdaptiveLimit(share, max_in_flight)) for url in urls]
        self._top, self._give_up, self._probe, self._tell = max_in_flight, give_up_seconds, probe, tell
        self._waiters: deque[_Waiter] = deque()
        self._outstanding = 0
        self._empty_since: float | None = None
        self._missing = asyncio.Event()
        self._dead = False
        self._dies_of = ""

    async def acquire(self, wish: Wish = lambda: None) -> Server:
        """A place at a server, once there is one; to be given back by `release`.

        Raises:
            EngineFailure: all servers have been away for too long, or are gone (fatal), and what was under way has
                come to its end.
        """
        if self._dead:
            raise self._failure()
        if not self._dies_of and not self._waiters and (server := self._pick(wish())):
            return self._taken(server)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), wish)
        self._waiters.append(waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self.release(waiter.future.result())
            raise

    def release(self, server: Server) -> None:
        """Give a place back."""
        server.outstanding -= 1
        self._outstanding -= 1
        self._dispatch()

    def succeeded(self, server: Server, seconds: float) -> None:
        """Learn from a usable answer."""
        server.answered += 1
        server.strikes = server.probes = 0
        server.limit.answered(seconds)

    def overloaded(self, server: Server, started: float, retry_after: float | None) -> None:
        """Learn from a 429 or 503: half the load, and none at all for a while."""
        now = asyncio.get_running_loop().time()
        server.limit.overloaded(started, now)
        pause = min(retry_after if retry_after is not None else _BREATH_SECONDS, _MAX_BREATH_SECONDS)
        if now + pause > server.paused_until:
            server.paused_until = now + pause
            asyncio.get_running_loop().call_later(pause + 0.001, self._dispatch)

    def failed(self, server: Server, reason: str, *, at_once: bool) -> None:
        """Learn from a failure: a server that cannot be reached, or fails three times running, leaves the pool."""
        server.strikes += 1
        if server.away is None and (at_once or server.strikes >= _STRIKES):
            self._leave(server, reason)

    def dismiss(self, server: Server, reason: str) -> None:
        """Take a server out for good; it refuses what we are."""
        server.gone = True
        if server.away is None:
            self._leave(server, reason)
        server.away = reason
        if all(each.gone for each in self.servers):
            self._die("no server is usable")

    async def watch(self) -> None:
        """Bring servers back when they are healthy; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            away = [each for each in self.servers if each.away is not None and not each.gone]
            if not away:
                self._missing.clear()
                await self._missing.wait()
                continue
            now = loop.time()
            await asyncio.gather(*(self._check(each) for each in away if each.probe_at <= now))
            now = loop.time()
            if self._empty_since is not None and now - self._empty_since > self._give_up:
                self._die(f"all servers have been away for {self._give_up:g} s")
                return
            soonest = min((each.probe_at for each in away), default=now)
            await asyncio.sleep(min(max(soonest - now, 0.02), _FIRST_PROBE_SECONDS))  # another may leave meanwhile

    def _check_delay(self, server: Server) -> float:
        delay: float = min(_FIRST_PROBE_SECONDS * 2**server.probes, _MAX_PROBE_SECONDS)
        return delay * random.uniform(0.75, 1.25)

    async def _check(self, server: Server) -> None:
        server.probes += 1
        healthy = await self._probe(server)
        server.probe_at = asyncio.get_running_loop().time() + self._check_delay(server)
        if healthy and not server.gone:
            self._tell(f"server {server.url} is back")
            server.away, server.strikes, self._empty_since = None, 0, None
            self._dispatch()

    def _leave(self, server: Server, reason: str) -> None:
        self._tell(f"server {server.url} leaves the pool: {reason}")
        now = asyncio.get_running_loop().time()
        server.away = reason
        server.departures += 1
        server.probe_at = now + self._check_delay(server)
        if all(each.away is not None for each in self.servers):
            self._empty_since = now
        self._missing.set()

    def _die(self, why: str) -> None:
        reasons = "; ".join(f"{each.url}: {each.away}" for each in self.servers)
        self._dies_of = f"{why} ({reasons})"
        asyncio.get_running_loop().call_later(_LAST_SECONDS, self._bury)
        self._dispatch()

    def _bury(self) -> None:
        """Tell everybody who waits that there is no hope; the first who hears of it ends all others."""
        self._dead = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(self._failure())

    def _failure(self) -> EngineFailure:
        return EngineFailure("engine", self._dies_of, retryable=True, fatal=True)

    def _dispatch(self) -> None:
        if self._dies_of:
            if not self._outstanding:
                self._bury()
            return
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.future.done():
                self._waiters.popleft()
                continue
            server = self._pick(waiter.wish())
            if server is None:
                return
            self._waiters.popleft()
            waiter.future.set_result(self._taken(server))

    def _pick(self, preferred: Server | None) -> Server | None:
        """The least busy server that has room; the preferred one where it is hardly busier, or has the picture."""
        if self._outstanding >= self._top:
            return None
        now = asyncio.get_running_loop().time()
        open_ = [each for each in self.servers if _has_room(each, now)]
        if len(open_) < 2:
            return open_[0] if open_ else None
        least = min(open_, key=lambda each: (each.outstanding, random.random()))
        if preferred in open_ and (preferred.keeps_pictures or preferred.outstanding <= least.outstanding + _FAVOUR):
            return preferred
        return least

    def _taken(self, server: Server) -> Server:
        server.outstanding += 1
        self._outstanding += 1
        return server


def _has_room(server: Server, now: float) -> bool:
    return server.away is None and server.paused_until <= now and server.outstanding < server.limit.value
