"""What can only be read forwards: compressed tars, and rows that are streamed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

_PASSED = 64
_PASSED_BYTES = 64_000_000

P = TypeVar("P", bound=Any)
"""A place: anything that has an order."""


class Forward(Generic[P]):
    """Contents by their place, read forwards. Those passed last are kept: a few readers share it, each a step apart.

    Args:
        contents: place and content, the places ascending.
        start: the first place that may come.
    """

    def __init__(self, contents: Iterator[tuple[P, bytes]], start: P) -> None:
        self._contents, self._start = contents, start
        self._passed: OrderedDict[P, bytes] = OrderedDict()
        self._held = 0
        self.position: P | None = None
        """The last place that was read."""

    def has(self, place: P) -> bool:
        """Whether a place is still ahead, or was passed a little while ago."""
        return place in self._passed or self._is_ahead(place)

    def read(self, place: P) -> bytes | None:
        """The content of a place; None where there is none. Raises what reading raises."""
        while place not in self._passed and self._is_ahead(place):
            found = next(self._contents, None)
            if found is None:
                return None
            self.position = found[0]
            self._keep(*found)
        return self._passed.get(place)

    def _is_ahead(self, place: P) -> bool:
        return bool(place >= self._start if self.position is None else place > self.position)

    def _keep(self, place: P, content: bytes) -> None:
        self._passed[place] = content
        self._held += len(content)
        while len(self._passed) > 1 and (len(self._passed) > _PASSED or self._held > _PASSED_BYTES):
            self._held -= len(self._passed.popitem(last=False)[1])
