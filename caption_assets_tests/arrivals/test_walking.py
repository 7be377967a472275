"""Listing for a limited time: how much is listed at once, and that what was listed is handed over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from caption_assets.arrivals.walking import Share, walk
from caption_assets.sources.base import Page

RANGES = [(str(number), str(number + 1)) for number in range(6)]


def _page() -> Page:
    return Page([], after="")


def test_four_ranges_are_listed_at_once_while_there_is_time() -> None:
    met = threading.Barrier(4, timeout=20)

    def lister(after: str, last: str) -> Iterator[Page]:
        met.wait()  # breaks, and fails, unless four are under way
        yield _page()

    share = Share(idle=60, busy=60)
    first = next(walk(lister, RANGES, share, side_by_side=True))
    assert first[1] is not None


def test_little_is_under_way_when_a_share_is_nearly_used_up() -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def lister(after: str, last: str) -> Iterator[Page]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.02)
        with lock:
            under_way -= 1
        yield _page()

    pages = list(walk(lister, RANGES, Share(idle=0.04, busy=60), side_by_side=True))
    assert most == 1
    assert 1 <= len(pages) < 2 * len(RANGES)


def test_who_has_used_up_its_share_still_gets_one_page() -> None:
    def lister(after: str, last: str) -> Iterator[Page]:
        yield _page()
        yield _page()

    for side_by_side in (True, False):
        assert len(list(walk(lister, RANGES, Share(idle=-1, busy=60), side_by_side=side_by_side))) == 1


def test_news_lengthen_a_share() -> None:
    share = Share(idle=-1, busy=60)

    def lister(after: str, last: str) -> Iterator[Page]:
        yield _page()
        yield _page()

    listed = []
    for _, page in walk(lister, RANGES, share, side_by_side=False):
        listed.append(page)
        share.news = 1
    assert len(listed) == 3 * len(RANGES)  # two pages and the end of each
