"""Bounds the memory of work that goes on side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

DECODING_BYTES = 400_000_000
"""Of all decoding at once, and of one picture with its file: what keeps a process within 600 MB."""


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
    def hold(self, size: int) -> Iterator[None]:
        """Wait for room for `size` bytes, and keep it while the block runs."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._fits(size))
                self._held += size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._limit
