"""Which copy of a model a request goes to: all that look at a picture to the same one, which has its image tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_REMEMBERED = 4096
_FAVOUR = 16
"""More requests under way that a copy may have than the least busy one and still get a picture it knows."""


class Copies:
    """Places of requests among copies of a model, numbered from 0.

    Args:
        count: how many copies there are.
    """

    def __init__(self, count: int) -> None:
        self._open = [0] * count
        self._homes: OrderedDict[str, int] = OrderedDict()

    @contextmanager
    def place(self, image_id: str | None) -> Iterator[int | None]:
        """A request's copy, for as long as the request is under way; None where there is no choice.

        A picture goes to the least busy copy, and its later requests to the same one unless that is far busier by now.
        """
        if len(self._open) == 1:
            yield None
            return
        copy = self._choose(image_id)
        self._open[copy] += 1
        try:
            yield copy
        finally:
            self._open[copy] -= 1

    def _choose(self, image_id: str | None) -> int:
        least = min(range(len(self._open)), key=self._open.__getitem__)
        if image_id is None:
            return least
        home = self._homes.get(image_id, least)
        if self._open[home] > self._open[least] + _FAVOUR:
            home = least
        self._homes[image_id] = home
        self._homes.move_to_end(image_id)
        if len(self._homes) > _REMEMBERED:
            self._homes.popitem(last=False)
        return home
