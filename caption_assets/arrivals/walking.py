"""Listing for a limited time: ranges of places, several at once where the listing is a store's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from caption_assets.sources.base import ListsInPages, Page

AT_ONCE = 8

Range = tuple[str, str]
"""The place behind which to list, and the last one; "" is the beginning, and the end."""


def walk(source: ListsInPages, ranges: Sequence[Range], until: float) -> Iterator[tuple[int, Page | None]]:
    """The pages of ranges, each with the number of its range; None once a range has no more.

    Args:
        until: by `time.monotonic()`, when to stop. At least one page is given.

    Raises:
        OSError: the source cannot be listed.
    """
    if source.keys is None:
        yield from _one_after_the_other(source, ranges, until)
    elif ranges:
        with ThreadPoolExecutor(min(AT_ONCE, len(ranges)), thread_name_prefix="listing") as pool:
            yield from _side_by_side(pool, source, ranges, until)


def _one_after_the_other(
    source: ListsInPages, ranges: Sequence[Range], until: float
) -> Iterator[tuple[int, Page | None]]:
    for number, (after, last) in enumerate(ranges):
        for page in source.pages(after, last):
            yield number, page
            if time.monotonic() > until:
                return
        yield number, None


def _side_by_side(
    pool: ThreadPoolExecutor, source: ListsInPages, ranges: Sequence[Range], until: float
) -> Iterator[tuple[int, Page | None]]:
    """While a page is being worked on, the next ones of its range and of others are listed."""
    waiting = list(enumerate(ranges))
    under_way: dict[Future[Page | None], tuple[int, Iterator[Page]]] = {}

    def list_next(number: int, pages: Iterator[Page]) -> None:
        under_way[pool.submit(next, pages, None)] = number, pages

    def begin() -> None:
        if waiting:
            number, (after, last) = waiting.pop(0)
            list_next(number, source.pages(after, last))

    for _ in range(AT_ONCE):
        begin()
    while under_way:
        for done in wait(under_way, return_when=FIRST_COMPLETED).done:
            number, pages = under_way.pop(done)
            page = done.result()
            if page is None:
                begin()
            else:
                list_next(number, pages)
            yield number, page
            if time.monotonic() > until:
                return
