"""Fetches pictures from the web: many at once, few from a host, nothing that is not meant for us."""

from __future__ import annotations

import asyncio
import hashlib
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager

import aiohttp
import fsspec.asyn
from aiohttp.abc import AbstractResolver
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from yarl import URL

from caption_assets.config.datasets import Web
from caption_assets.lake.tables import MediaFailureKind
from caption_assets.sources.addresses import BlockedAddressError, GuardedResolver, check_host
from caption_assets.sources.ahead import Ahead, Room
from caption_assets.sources.base import FetchError
from caption_assets.sources.politeness import HostGate, HostGates, Robots, opted_out, retry_after
from caption_assets.sources.spool import Body, Spool

_CHUNK = 1 << 16
_ROBOTS_BYTES = 500 * 1024
_REDIRECTS = frozenset([301, 302, 303, 307, 308])
_AGAIN = frozenset([408, 425, 429])
_SERVER_ERROR = 500
"""This and all above: the server's own trouble, so that a robots.txt may be there all the same (RFC 9309, 2.3.1.4)."""
_KINDS: dict[int, MediaFailureKind] = {401: "forbidden", 403: "forbidden", 404: "gone", 410: "gone", 451: "forbidden"}

Read = Callable[[aiohttp.ClientResponse], Awaitable[Body]]


class _RetryError(FetchError):
    """A failure that may pass by itself, soon; the server may have said when."""

    def __init__(self, kind: MediaFailureKind, message: str, after: float = 0.0) -> None:
        super().__init__(kind, message)
        self.after = after


class WebFetcher:
    """A client for http and https, with its connections kept open; any thread may use it.

    Args:
        web: limits and manners.
        ahead: what fetches many things at once, and says how long a body may be.
        resolver: what resolves names; default: the system's.
    """

    def __init__(self, web: Web, ahead: Ahead, *, resolver: AbstractResolver | None = None) -> None:
        self.ahead = ahead
        self._web, self._resolver = web, resolver
        self._loop: asyncio.AbstractEventLoop = fsspec.asyn.get_loop()
        self._session: aiohttp.ClientSession | None = None
        self._gates = HostGates(web)
        self._robots = Robots(self._robots_text)

    @property
    def manners(self) -> str:
        """Names the settings on which an opt-out depends."""
        told = f"{self._web.robots} {sorted(self._web.opt_out)}"
        return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()

    def start(self, url: str) -> Future[bytes]:
        """Begin to fetch; the future's result is the body, or FetchError."""
        return self.ahead.start(lambda room: self._fetch(url, room))

    async def _fetch(self, url: str, room: Room) -> Body:
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._worth_another),
            stop=stop_after_attempt(self._web.attempts),
            wait=self._pause,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:  # called as a function, it would keep the body until the collector comes
                return await self._follow(url, room)
        raise AssertionError("the last attempt returns or raises")

    def _worth_another(self, error: BaseException) -> bool:
        return isinstance(error, _RetryError) and error.after <= self._web.max_wait_seconds

    def _pause(self, state: RetryCallState) -> float:
        """Back-off with jitter, and no less than the server asks for."""
        error = state.outcome.exception() if state.outcome else None
        after = error.after if isinstance(error, _RetryError) else 0.0
        longest = min(self._web.backoff_seconds * 2.0 ** (state.attempt_number - 1), self._web.max_wait_seconds)
        return after + random.uniform(longest / 2, longest)

    async def _follow(self, text: str, room: Room) -> Body:
        """The body at the end of a bounded number of redirects, each checked like the first URL."""
        url = _parsed(text)
        for _ in range(self._web.redirects + 1):
            if self._web.robots and not await self._robots.allows(url):
                raise FetchError("opted_out", "robots.txt of its host asks not to fetch it")
            answer = await self._get(url, lambda response: _body(response, room), honour=True)
            if not isinstance(answer, URL):
                return answer
            url = answer
        raise FetchError("unreadable", f"more than {self._web.redirects} redirects")

    async def _get(self, url: URL, read: Read, *, honour: bool) -> Body | URL:
        """What is read of a body, or where it is instead. Raises FetchError."""
        async with _translated():
            check_host(url, self._web.allow_hosts)
            async with self._gates.of(url.host or "") as gate, await self._answer(url, gate) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return _parsed(response.headers["Location"], url)
                if response.status in _AGAIN or response.status >= _SERVER_ERROR:
                    after = retry_after(response.headers.get("Retry-After"))
                    raise _RetryError("unreachable", f"the server answers {response.status}", after)
                if response.status not in (200, 203):
                    kind = _KINDS.get(response.status, "unreadable")
                    raise FetchError(kind, f"the server answers {response.status}")
                tag = opted_out(response.headers.getall("X-Robots-Tag", []), self._web.opt_out) if honour else None
                if tag:
                    raise FetchError("opted_out", f"the server sends X-Robots-Tag: {tag}")
                return await read(response)

    async def _answer(self, url: URL, gate: HostGate) -> aiohttp.ClientResponse:
        """The answer of a host, up to its body; whether there was one is told to its gate."""
        try:
            async with _translated():
                response = await self._open().get(url, allow_redirects=False)
        except _RetryError:
            gate.unanswered()
            raise
        gate.answered()
        return response

    async def _robots_text(self, url: URL) -> tuple[int, str]:
        for _ in range(self._web.redirects + 1):
            try:
                answer = await self._get(url, _beginning, honour=False)
            except _RetryError:
                raise
            except FetchError as error:
                if error.kind in ("gone", "forbidden", "unreadable"):
                    return 404, ""  # a host without robots.txt allows everything
                raise
            if isinstance(answer, URL):
                url = answer
            elif isinstance(answer, bytes):
                return 200, answer.decode("utf-8", "replace")
        return 404, ""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._web.at_once, resolver=GuardedResolver(self._web.allow_hosts, self._resolver)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._web.timeout_seconds, sock_connect=self._web.connect_seconds),
                headers={"User-Agent": self._web.user_agent, "Accept": "image/*,*/*;q=0.5"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            weakref.finalize(self, _close, self._loop, self._session)
        return self._session


def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)


def _parsed(text: str, base: URL | None = None) -> URL:
    """A URL that may be fetched. Raises FetchError: bad_row, or blocked_address for other schemes after a redirect."""
    try:
        url = base.join(URL(text)) if base else URL(text)
        host, _ = url.host, url.port  # both are read late, and may be none
    except ValueError:
        raise FetchError("unreadable" if base else "bad_row", "not a URL") from None
    if url.scheme not in ("http", "https"):
        if base:
            raise FetchError("blocked_address", f"a redirect to {url.scheme or 'nowhere'}, not to http or https")
        raise FetchError("bad_row", "only http and https are fetched")
    if not host:
        raise FetchError("unreadable" if base else "bad_row", "a URL without a host")
    return url.with_fragment(None)


async def _body(response: aiohttp.ClientResponse, room: Room) -> Body:
    """The body, read as far as there is room. Raises FetchError (too_large), NoRoomError."""
    length = None if "Content-Encoding" in response.headers else response.content_length
    if length is not None:
        room.exactly(length)
    with Spool() as body:
        async for chunk in response.content.iter_chunked(_CHUNK):
            body.write(chunk)
            if length is None:
                room.at_least(len(body))
        return body


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """As much of a robots.txt as its readers must heed (RFC 9309, 2.5)."""
    found = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        found += chunk
        if len(found) >= _ROBOTS_BYTES:
            break
    return bytes(found[:_ROBOTS_BYTES])


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turns what the client raises into FetchError."""
    try:
        yield
    except FetchError:
        raise
    except BlockedAddressError as error:
        raise FetchError("blocked_address", str(error)) from None
    except TimeoutError:
        raise _RetryError("timeout", "no answer in time") from None
    except aiohttp.ClientConnectorCertificateError:
        raise FetchError("unreachable", "the server's certificate is not valid") from None
    except aiohttp.InvalidURL:
        raise FetchError("bad_row", "not a URL that can be fetched") from None
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        if isinstance(error.__cause__, BlockedAddressError):
            raise FetchError("blocked_address", str(error.__cause__)) from None
        raise _RetryError("unreachable", f"{type(error).__name__}: no connection, or it broke") from None
