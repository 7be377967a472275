"""Bounds the memory of work that goes on side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from caption_assets import malloc

DECODING_BYTES = 370_000_000
"""Of one picture, file and decoding: what keeps a process within 600 MB that decodes nothing beside it."""
AT_ONCE = 0.7
"""How much of that all may take that are worked on at once: each brings something along that is not counted."""


class MemoryGate:
    """Lets work through, in the order of asking, while what all of it holds stays within a limit.

    What needs more than the limit is done alone.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = DECODING_BYTES) -> None:
        self._limit = limit
        self._held = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def enter(self) -> Iterator[Held]:
        """One piece of work, which holds nothing yet, and nothing any more afterwards."""
        held = Held(self)
        try:
            yield held
        finally:
            held.keep(0)

    def takes(self, size: int) -> bool:
        """Whether there is room for `size` bytes now, and nobody waits for any; then it is taken."""
        with self._changed:
            if self._queue or not self._fits(size):
                return False
            self._held += size
            return True

    def wait(self, size: int) -> None:
        """Take `size` bytes as soon as there is room for them, and it is this one's turn."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._fits(size))
                self._held += size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def give(self, size: int) -> None:
        """Have `size` bytes back."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._limit


class Held:
    """What one piece of work holds of a gate. It never waits for more while it holds something: so all get through."""

    def __init__(self, gate: MemoryGate) -> None:
        self._gate = gate
        self.size = 0

    def grows_to(self, size: int) -> bool:
        """Whether it may hold `size` bytes in all, at once; what it held it holds in any case."""
        if size > self.size:
            if not self._gate.takes(size - self.size):
                return False
            self.size = size
            malloc.trim(size)
        return True

    def wait_for(self, size: int) -> None:
        """Let go of everything, then wait for room for `size` bytes."""
        self.keep(0)
        self._gate.wait(size)
        self.size = size
        malloc.trim(size)

    def keep(self, size: int) -> None:
        """Give back all but `size` bytes: the rest is freed by now."""
        if size < self.size:
            malloc.trim(self.size)
            less, self.size = self.size - size, size
            self._gate.give(less)
