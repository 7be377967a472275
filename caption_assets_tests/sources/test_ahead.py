"""Fetching ahead: within the budget, never stuck, and nothing kept of what nobody wants."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import fsspec.asyn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.sources.ahead import Ahead, Room
from caption_assets.sources.base import FetchError


class Bodies:
    """Fetches of bodies of given sizes, that tell how many bytes they and their waiting results hold."""

    def __init__(self, ahead: Ahead, *, known: bool = True) -> None:
        self.ahead, self.known = ahead, known
        self.held = self.most = self.begun = 0

    def start(self, size: int) -> Future[bytes]:
        async def fetch(room: Room) -> bytes:
            self.begun += 1
            if self.known:
                room.exactly(size)
            read = 0
            self.add(0)
            try:
                while read < size:
                    await asyncio.sleep(0)
                    self.add(min(10, size - read))
                    read += min(10, size - read)
                    if not self.known:
                        room.at_least(read)
            except BaseException:
                self.add(-read)
                raise
            return b"x" * size

        return self.ahead.start(fetch)

    def add(self, size: int) -> None:
        self.held += size
        self.most = max(self.most, self.held)

    def take(self, body: Future[bytes]) -> int:
        size = len(body.result(30))
        fsspec.asyn.get_loop().call_soon_threadsafe(self.add, -size)
        return size


def settle() -> None:
    """Return when the loop has done all that it can do now."""

    async def turns() -> None:
        for _ in range(3000):
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(turns(), fsspec.asyn.get_loop()).result(30)


@pytest.mark.parametrize("known", [True, False])
def test_what_waits_for_its_turn_stays_within_the_budget(known: bool) -> None:
    bodies = Bodies(Ahead(at_once=50, budget=1000, limit=10_000), known=known)
    started = [bodies.start(100) for _ in range(50)]
    settle()
    assert 5 <= sum(each.done() for each in started) <= 10
    assert bodies.most <= 1000 + (0 if known else 10 * 50)
    assert [bodies.take(each) for each in started] == [100] * 50
    assert bodies.most <= 1000 + 100 + (0 if known else 10 * 50)  # with the one that is being handed over


def test_the_next_one_proceeds_whatever_its_size() -> None:
    bodies = Bodies(Ahead(at_once=50, budget=1000, limit=10_000))
    started = [bodies.start(size) for size in [100, 100, 5000, 100, 9000, 8000, 100]]
    assert [bodies.take(each) for each in started] == [100, 100, 5000, 100, 9000, 8000, 100]
    assert bodies.most <= 1000 + 9000 + 5000  # with the one that is being handed over


@pytest.mark.parametrize("known", [True, False])
def test_big_ones_come_one_after_another(known: bool) -> None:
    bodies = Bodies(Ahead(at_once=8, budget=1000, limit=10_000), known=known)
    started = [bodies.start(5000) for _ in range(8)]
    settle()
    assert [each.done() for each in started] == [True] + [False] * 7
    assert [bodies.take(each) for each in started] == [5000] * 8
    assert bodies.most <= 1000 + 5000 + 5000


def test_whoever_waits_for_a_later_one_gets_it() -> None:
    bodies = Bodies(Ahead(at_once=8, budget=1000, limit=10_000))
    started = [bodies.start(900) for _ in range(8)]
    assert bodies.take(started[5]) == 900
    with ThreadPoolExecutor(8) as pool:
        others = [each for each in reversed(started) if each is not started[5]]  # which is its taker's now
        assert list(pool.map(bodies.take, others)) == [900] * 7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=40), st.booleans(), st.integers(1, 4), st.integers(100, 2000))
def test_every_order_of_sizes_comes_through(sizes: list[int], known: bool, workers: int, budget: int) -> None:
    bodies = Bodies(Ahead(at_once=16, budget=budget, limit=10_000), known=known)
    with ThreadPoolExecutor(workers) as pool:
        started = [bodies.start(size) for size in sizes]
        assert list(pool.map(bodies.take, started)) == sizes
    unknown = 0 if known else 10 * len(sizes)
    assert bodies.most <= budget + max([0, *sizes]) * (workers + 1) + unknown


@pytest.mark.parametrize("how", ["cancelled", "dropped"])
def test_nothing_is_kept_of_what_nobody_wants(how: str) -> None:
    bodies = Bodies(Ahead(at_once=8, budget=1000, limit=10_000))
    unwanted = [bodies.start(900) for _ in range(8)]
    settle()
    if how == "cancelled":
        for each in unwanted[1:]:
            assert each.cancel()
        with pytest.raises(CancelledError):
            unwanted[1].result(30)
    gc.disable()  # a body must not have to wait for the collector
    try:
        unwanted.clear()
        settle()
        last = [bodies.start(900), bodies.start(900)]
        settle()
        assert last[0].done()
    finally:
        gc.enable()


def test_errors_free_their_room_and_are_told() -> None:
    ahead = Ahead(at_once=8, budget=1000, limit=2000)

    async def fails(room: Room) -> bytes:
        room.exactly(900)
        raise ValueError("broken")

    failing = [ahead.start(fails) for _ in range(8)]
    for each in failing:
        with pytest.raises(ValueError, match="broken"):
            each.result(30)
    bodies = Bodies(ahead)
    with pytest.raises(FetchError, match="longer than 2000 bytes") as caught:
        bodies.start(2001).result(30)
    assert caught.value.kind == "too_large"
    assert bodies.take(bodies.start(2000)) == 2000
    settle()
    assert bodies.held == 0


def test_a_body_gives_up_its_place_while_it_waits_for_room() -> None:
    """Where few connections are to be had, those that wait for room must not keep the first one from its own."""
    ahead, places, first_may = Ahead(at_once=8, budget=1000, limit=10_000), asyncio.Semaphore(2), threading.Event()

    def start(number: int) -> Future[bytes]:
        async def fetch(room: Room) -> bytes:
            while number == 0 and not first_may.is_set():
                await asyncio.sleep(0)
            async with places:
                room.exactly(900)
                await asyncio.sleep(0)
                return b"x" * 900

        return ahead.start(fetch)

    started = [start(number) for number in range(8)]
    settle()
    first_may.set()
    assert [len(each.result(30)) for each in started] == [900] * 8
