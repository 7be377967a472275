"""The memory gate: never more than the limit at once, in the order of asking, what is too big alone."""

import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.media.memory import MemoryGate


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=20))
def test_what_is_held_stays_within_the_limit(sizes: list[int]) -> None:
    gate, lock = MemoryGate(100), threading.Lock()
    held: list[int] = []
    worst: list[list[int]] = []

    def work(size: int) -> None:
        with gate.enter() as mine:
            if not mine.grows_to(size):
                mine.wait_for(size)
            with lock:
                held.append(size)
                worst.append(list(held))
            time.sleep(0.0005)
            with lock:
                held.remove(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(worst) == len(sizes)
    assert all(sum(together) <= 100 or len([size for size in together if size]) == 1 for together in worst)


def test_the_big_one_is_not_overtaken_for_ever() -> None:
    gate, order = MemoryGate(100), []

    def work(name: str, size: int) -> None:
        with gate.enter() as mine:
            mine.wait_for(size)
            order.append(name)

    with gate.enter() as first:
        assert first.grows_to(60)
        threads = [threading.Thread(target=work, args=(name, size)) for name, size in (("big", 100), ("small", 1))]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["big", "small"]


def test_a_failure_gives_the_memory_back() -> None:
    gate = MemoryGate(100)
    for _ in range(3):
        try:
            with gate.enter() as held:
                assert held.grows_to(100)
                raise MemoryError
        except MemoryError:
            pass
    with gate.enter() as held:
        assert held.grows_to(100)


def test_who_waits_holds_nothing() -> None:
    """Two that hold half each, and both want all: each gets it, one behind the other."""
    gate, done = MemoryGate(100), []
    ready = threading.Barrier(2)

    def work(name: str) -> None:
        with gate.enter() as mine:
            assert mine.grows_to(50)
            ready.wait(10)
            if not mine.grows_to(100):
                mine.wait_for(100)
            done.append(name)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(done) == ["a", "b"]


def test_what_is_given_back_is_there_for_others() -> None:
    gate = MemoryGate(100)
    with gate.enter() as first, gate.enter() as second:
        assert first.grows_to(100)
        assert not second.grows_to(1)
        first.keep(40)
        assert second.grows_to(60)
        assert not first.grows_to(41)
        assert first.grows_to(40)
