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
        with gate.hold(size):
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
        with gate.hold(size):
            order.append(name)

    with gate.hold(60):
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
            with gate.hold(100):
                raise MemoryError
        except MemoryError:
            pass
    with gate.hold(100):
        pass
