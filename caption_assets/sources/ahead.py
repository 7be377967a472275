"""Fetches many things at once, in the order in which they are asked for, within a budget of bytes.

What is there before its turn comes waits, and would fill the memory where pictures are big. So a body takes its bytes
from a budget before they are read, and gives them back when it is handed over. What finds no room lets go of its
connection (others need it, perhaps the one whose turn it is) and starts over when there is room. Whatever its size,
what is waited for, or else what was asked for first, always finds room: so there is no deadlock, and no more waits
than the budget and that one body. Of these, big ones wait on disk.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import fsspec.asyn

from caption_assets.sources.base import FetchError, Fetching
from caption_assets.sources.spool import Body, Spool

_FIRST_GUESS = 1 << 20


class Room:
    """How much of a body may be read.

    Args:
        limit: bytes; more are a failure.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def exactly(self, size: int) -> None:
        """Ask for room for a body of so many bytes. Raises FetchError (too_large), NoRoomError."""
        self.at_least(size)

    def at_least(self, size: int) -> None:
        """Ask for room for so many bytes of a body whose length is not known. Raises as `exactly` does."""
        if size > self.limit:
            raise FetchError("too_large", f"it is longer than {self.limit} bytes")


Fetch = Callable[[Room], Awaitable[Body]]
"""Reads a body, asking for room before it reads on. It may be called again, and then begins again."""


class Ahead:
    """The fetches of one source; any thread may start them.

    Args:
        at_once: how many it is worth to have under way.
        budget: bytes of all bodies that wait or are being read.
        limit: bytes of one body.
    """

    def __init__(self, at_once: int = 32, budget: int = 96_000_000, limit: int = sys.maxsize) -> None:
        self.at_once = at_once
        self._limit = limit
        self._budget = _Budget(budget)
        self._loop: asyncio.AbstractEventLoop = fsspec.asyn.get_loop()
        self._usual = float(min(_FIRST_GUESS, budget // (2 * at_once)))

    def start(self, fetch: Fetch) -> Fetching:
        """Begin to fetch; the future's result is the body, or FetchError.

        `result()` hands the body over: from then on its bytes count no longer. Neither do they once the future is
        cancelled or dropped.
        """
        claim = _Claim(self._budget, self._limit)
        body = _Body(self._loop, claim)
        self._loop.call_soon_threadsafe(self._begin, claim, body, fetch)
        return body

    def _begin(self, claim: _Claim, body: _Body, fetch: Fetch) -> None:
        self._budget.add(claim)
        task = claim.task = self._loop.create_task(self._run(claim, body, fetch))
        body.add_done_callback(lambda done: _tell(self._loop, task.cancel) if done.cancelled() else None)

    async def _run(self, claim: _Claim, body: _Body, fetch: Fetch) -> None:
        try:
            data = await self._fetched(claim, fetch)
        except asyncio.CancelledError:
            claim.release()
            body.cancel()
        except BaseException as error:
            claim.release()
            if isinstance(error, FetchError):
                error.__traceback__ = None  # it says all there is to say, and its frames hold what was read
            if body.set_running_or_notify_cancel():
                body.set_exception(error)
        else:
            claim.waited_for = False
            if body.set_running_or_notify_cancel():
                body.arrived(data)
            else:
                claim.release()
        finally:
            del body  # an error's traceback holds this frame, which must not hold the body in turn

    async def _fetched(self, claim: _Claim, fetch: Fetch) -> Body:
        # twice the usual, so that most bodies need not ask again, but not so much that they come one after another
        size = int(min(2 * self._usual, max(self._usual, self._budget.size / 4), self._limit))
        while True:
            await self._budget.wait(claim, size)
            try:
                data = await fetch(claim)
            except NoRoomError as error:
                size = error.size
                error.__traceback__ = None  # whoever still holds the error would hold this frame, and then the body
                self._budget.take(claim, 0)
                continue
            self._budget.take(claim, len(data))
            self._usual += (len(data) - self._usual) / 8
            return data


class _Budget:
    """Bytes, and who has them; used in the loop's thread only."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = 0
        self._claims: dict[_Claim, None] = {}  # in the order of asking

    def add(self, claim: _Claim) -> None:
        """Let a claim take part."""
        self._claims[claim] = None

    def fits(self, claim: _Claim, size: int) -> bool:
        """Whether a claim may have so many bytes."""
        return self._held - claim.size + size <= self.size or claim is self._favourite()

    def take(self, claim: _Claim, size: int) -> None:
        """Give a claim so many bytes in place of what it has."""
        self._held += size - claim.size
        less, claim.size = size < claim.size, size
        if less:
            self.wake()

    async def wait(self, claim: _Claim, size: int) -> None:
        """Take so many bytes as soon as there is room."""
        while not self.fits(claim, size):
            claim.woken.clear()
            await claim.woken.wait()
        self.take(claim, size)

    def remove(self, claim: _Claim) -> None:
        """Take back what a claim has, and forget it."""
        if claim in self._claims:
            del self._claims[claim]
            self._held -= claim.size
            self.wake()

    def wake(self) -> None:
        """Let those that wait look again, in their order."""
        for claim in self._claims:
            claim.woken.set()

    def _favourite(self) -> _Claim | None:
        """The first claim that is waited for, else the first one at all; it is nobody where that has all it needs."""
        waited_for = (claim for claim in self._claims if claim.waited_for)
        return next(waited_for, None) or next(iter(self._claims), None)


class NoRoomError(Exception):
    """There is no room for so many bytes now; `Ahead` fetches again when there is."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Claim(Room):
    """What a fetch has of the budget."""

    def __init__(self, budget: _Budget, limit: int) -> None:
        super().__init__(limit)
        self._budget = budget
        self.size = 0
        self.waited_for = False
        self.woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def exactly(self, size: int) -> None:
        super().at_least(size)
        if not self._budget.fits(self, size):
            raise NoRoomError(size)
        self._budget.take(self, size)

    def at_least(self, size: int) -> None:
        super().at_least(size)
        if size > self.size:
            if not self._budget.fits(self, size):
                raise NoRoomError(min(2 * size, self.limit))
            self._budget.take(self, size)

    def want(self) -> None:
        """Somebody waits for it, and must not wait for what comes after it."""
        if self.task and not self.task.done():
            self.waited_for = True
            self._budget.wake()

    def release(self) -> None:
        """Its bytes are no longer ours."""
        self._budget.remove(self)


class _Body(Fetching):
    """A body to come."""

    _content: Body = b""

    def __init__(self, loop: asyncio.AbstractEventLoop, claim: _Claim) -> None:
        super().__init__()
        self._loop, self._claim = loop, claim
        weakref.finalize(self, _tell, loop, claim.release).atexit = False

    def arrived(self, content: Body) -> None:
        """The body is there."""
        self._content = content
        self.set_result(b"")

    def size(self) -> int:
        """Bytes of the body, once it is there; 0 where there will be none."""
        self._want()
        return 0 if self.exception() else len(self._content)

    def result(self, timeout: float | None = None) -> bytes:
        """The body, which is the caller's from now on; only once, where it is big. Raises FetchError."""
        body = self.body(timeout)
        return body.take() if isinstance(body, Spool) else body

    def body(self, timeout: float | None = None) -> Body:
        """The body as it waits, which is the caller's from now on. Raises FetchError."""
        self._want()
        super().result(timeout)
        _tell(self._loop, self._claim.release)
        content, self._content = self._content, b""
        return content

    def _want(self) -> None:
        if not self.done():
            _tell(self._loop, self._claim.want)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it what there was to tell
        loop.call_soon_threadsafe(call)
