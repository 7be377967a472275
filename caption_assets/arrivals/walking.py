"""Listing for a limited time: ranges of places, several at once where the listing is a store's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from caption_assets.sources.base import Page

_AT_ONCE = 4
"""Listings under way: what hides a store's latency. More would wait for this machine to read them."""

Range = tuple[str, str]
"""The place behind which to list, and the last one; "" is the beginning, and the end."""
Lister = Callable[[str, str], Iterator[Page]]
"""Lists a range."""
Due = Callable[[], bool]


def walk(lister: Lister, ranges: Sequence[Range], due: Due, *, side_by_side: bool) -> Iterator[tuple[int, Page | None]]:
    """The pages of ranges, each with the number of its range; None once a range has no more.

    Args:
        due: whether to stop. At least one page is given.
        side_by_side: whether several are listed at once, ahead of who works on the pages.

    Raises:
        OSError: the source cannot be listed.
    """
    if not side_by_side:
        yield from _one_after_the_other(lister, ranges, due)
    elif ranges:
        with ThreadPoolExecutor(min(_AT_ONCE, len(ranges)), thread_name_prefix="listing") as pool:
            yield from _side_by_side(pool, lister, ranges, due)


def _one_after_the_other(lister: Lister, ranges: Sequence[Range], due: Due) -> Iterator[tuple[int, Page | None]]:
    for number, (after, last) in enumerate(ranges):
        for page in lister(after, last):
            yield number, page
            if due():
                return
        yield number, None


def _side_by_side(
    pool: ThreadPoolExecutor, lister: Lister, ranges: Sequence[Range], due: Due
) -> Iterator[tuple[int, Page | None]]:
    waiting = list(enumerate(ranges))
    under_way: dict[Future[Page | None], tuple[int, Iterator[Page]]] = {}

    def list_next(number: int, pages: Iterator[Page]) -> None:
        under_way[pool.submit(next, pages, None)] = number, pages

    def begin() -> None:
        if waiting:
            number, (after, last) = waiting.pop(0)
            list_next(number, lister(after, last))

    for _ in range(_AT_ONCE):
        begin()
    while under_way:
        for done in wait(under_way, return_when=FIRST_COMPLETED).done:
            number, pages = under_way.pop(done)
            page = done.result()
            if due():
                pass  # what is under way is still worked on: it has cost its time
            elif page is None:
                begin()
            else:
                list_next(number, pages)
            yield number, page
