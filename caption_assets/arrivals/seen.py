"""What a round of the scan has seen so far, on the local disk: without it the round cannot tell what is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caption_assets.sources.identities import ABSENT, IdentityTables, Ids, Numbers, find_in, sorted_table

_LARGEST = 1 << 18
"""Identities merged at once: a tenth of a second, which is what a tick that finds nothing has for it."""


class Seen:
    """The items that one round of the scan has seen.

    Args:
        folder: where a round is kept that takes more than one tick.
        round_id: the round's.
        begins: whether it begins now; else what is stored is of use only if it is this round's.
    """

    def __init__(self, folder: Path, round_id: str, *, begins: bool) -> None:
        self._stored = IdentityTables(folder, largest=_LARGEST)
        self._round_id = round_id
        self._new: list[Ids] = []
        self._sorted: npt.NDArray[np.uint64] | None = None
        self._begins = begins
        self.whole = begins or self._stored.about.get("round") == round_id
        """Whether nothing of the round was lost."""

    def add(self, ids: Ids) -> None:
        """Take note of items."""
        if ids.shape[1]:
            self._new.append(ids)
            self._sorted = None

    def has(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of these items were seen."""
        found = np.full(ids.shape[1], ABSENT, np.int64) if self._begins else self._stored.find(ids)
        if self._new:
            if self._sorted is None:
                self._sorted = sorted_table(np.hstack(self._new), _zeros(self._new))
            find_in(self._sorted, ids, found)
        return np.asarray(found != ABSENT)

    def parts(self) -> Iterator[Ids]:
        """All items that were seen, a part at a time; those that were seen twice come twice."""
        if not self._begins:
            yield from (ids for ids, _ in self._stored.parts())
        yield from self._new

    def store(self) -> None:
        """Keep it for the next tick."""
        with self._stored.locked():
            self._stored.reload()
            about = {"round": self._round_id}
            if self._begins or self._stored.about != about:
                self._stored.clear(about)
            if self._new:
                self._stored.add(np.hstack(self._new), _zeros(self._new), about)
        self._new, self._sorted, self._begins = [], None, False


def _zeros(parts: list[Ids]) -> Numbers:
    return np.zeros(sum(part.shape[1] for part in parts), np.int64)
