"""Listing for a limited time: ranges of places, several at once where the listing is a store's."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from caption_assets.sources.base import Page

_AT_ONCE = 4
"""Listings under way: what hides a store's latency. More would wait for this machine to read them."""

_LAST_SECONDS = 0.2
"""Before a share is used up fewer and fewer are begun: what is under way then is waited for."""

Range = tuple[str, str]
"""The place behind which to list, and the last one; "" is the beginning, and the end."""
Lister = Callable[[str, str], Iterator[Page]]
"""Lists a range."""


class Share:
    """A tick's share of something: there is more time for who finds something new.

    Args:
        idle: seconds where nothing is new.
        busy: seconds where something is.
    """

    def __init__(self, idle: float, busy: float) -> None:
        self._idle, self._busy, self._started = idle, busy, time.monotonic()
        self.news = 0

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 it is overdrawn."""
        return (self._busy if self.news else self._idle) - (time.monotonic() - self._started)

    def used_up(self) -> bool:
        """Whether nothing is left."""
        return self.left < 0


def walk(
    lister: Lister, ranges: Sequence[Range], share: Share, *, side_by_side: bool
) -> Iterator[tuple[int, Page | None]]:
    """The pages of ranges, each with the number of its range; None once a range has no more.

    Args:
        share: when to stop. At least one page is given.
        side_by_side: whether several are listed at once, ahead of who works on the pages.

    Raises:
        OSError: the source cannot be listed.
    """
    if not side_by_side:
        yield from _one_after_the_other(lister, ranges, share)
    elif ranges:
        with ThreadPoolExecutor(min(_AT_ONCE, len(ranges)), thread_name_prefix="listing") as pool:
            yield from _side_by_side(pool, lister, ranges, share)


def _one_after_the_other(lister: Lister, ranges: Sequence[Range], share: Share) -> Iterator[tuple[int, Page | None]]:
    for number, (after, last) in enumerate(ranges):
        for page in lister(after, last):
            yield number, page
            if share.used_up():
                return
        yield number, None


def _side_by_side(
    pool: ThreadPoolExecutor, lister: Lister, ranges: Sequence[Range], share: Share
) -> Iterator[tuple[int, Page | None]]:
    ready = deque((number, lister(after, last)) for number, (after, last) in enumerate(ranges))
    under_way: dict[Future[Page | None], tuple[int, Iterator[Page]]] = {}

    def list_more() -> None:
        at_once = max(1, math.ceil(_AT_ONCE * min(share.left / _LAST_SECONDS, 1)))
        while ready and len(under_way) < at_once:
            number, pages = ready.popleft()
            under_way[pool.submit(next, pages, None)] = number, pages

    list_more()
    while under_way:
        for done in wait(under_way, return_when=FIRST_COMPLETED).done:
            number, pages = under_way.pop(done)
            page = done.result()
            if page is not None:
                ready.appendleft((number, pages))
            if not share.used_up():
                list_more()
            yield number, page  # what was under way when it was used up is still worked on: it has cost its time
