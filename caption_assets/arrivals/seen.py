"""What a round of the scan has seen so far, on the local disk: without it the round cannot tell what is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caption_assets.arrivals.runs import LostError, SeenRuns
from caption_assets.sources.identities import ABSENT, IdentityTables, Ids, Numbers, find_in, mixed, sorted_table

_LARGEST = 1 << 18
"""Identities merged at once: a tenth of a second, which is what a tick that finds nothing has for it."""
_ITEM, _RUN = 0, 1
"""What an identity in a table is of; a run's is its digest."""


@dataclass
class Sum:
    """What a set of identities adds up to: two sets of which this is the same are the same, but for one in 2^64."""

    count: int = 0
    mix: int = 0
    """All of them `mixed`."""

    def add(self, ids: Ids) -> None:
        """Add identities."""
        self.add_mixed(ids.shape[1], mixed(ids))

    def remove(self, ids: Ids) -> None:
        """Take away identities that were added."""
        self.add_mixed(-ids.shape[1], mixed(ids))

    def add_mixed(self, count: int, mix: int) -> None:
        """Add so many identities that were `mixed` before."""
        self.count += count
        self.mix ^= mix


class Seen:
    """The items that one round of the scan has seen.

    Args:
        folder: where a round is kept that takes more than one tick.
        round_id: the round's.
        begins: whether it begins now; else what is stored is of use only if it is this round's.
        runs: what the digests of runs stand for, where runs are seen.
    """

    def __init__(self, folder: Path, round_id: str, *, begins: bool, runs: SeenRuns | None = None) -> None:
        self._stored = IdentityTables(folder, largest=_LARGEST)
        self._round_id, self._runs = round_id, runs
        self._new: list[tuple[Ids, Numbers]] = []
        self._sorted: npt.NDArray[np.uint64] | None = None
        self._begins = begins
        self.whole = begins or self._stored.about.get("round") == round_id
        """Whether nothing of the round was lost."""

    def add(self, ids: Ids) -> None:
        """Take note of items."""
        self._add(ids, _ITEM)

    def add_runs(self, digests: Ids) -> None:
        """Take note of runs that are kept, and so of their items."""
        self._add(digests, _RUN)

    def has(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of these items were seen; those of runs were not before they were `spread`."""
        found = np.full(ids.shape[1], ABSENT, np.int64) if self._begins else self._stored.find(ids)
        if self._new:
            if self._sorted is None:
                self._sorted = sorted_table(*_joined(self._new))
            find_in(self._sorted, ids, found)
        return np.asarray(found == _ITEM)

    def parts(self) -> Iterator[Ids]:
        """All items that were seen, a part at a time, but those of runs; those that were seen twice come twice."""
        return self._parts(_ITEM)

    def sum(self) -> Sum:
        """What all items add up to, those of runs, too. Raises LostError."""
        found = Sum()
        for ids in self._parts(_ITEM):
            found.add(ids)
        for digests in self._parts(_RUN):
            found.add_mixed(*self._kept.sum(digests))
        return found

    def spread(self) -> None:
        """Make the items of runs known one by one. Raises LostError."""
        for digests in list(self._parts(_RUN)):
            for ids in self._kept.identities(digests, _LARGEST):
                self.add(ids)
                if sum(each.shape[1] for each, _ in self._new) >= _LARGEST:
                    self.store()

    def store(self) -> None:
        """Keep it for the next tick."""
        with self._stored.locked():
            self._stored.reload()
            about = {"round": self._round_id}
            if self._begins or self._stored.about != about:
                self._stored.clear(about)
            if self._new:
                self._stored.add(*_joined(self._new), about)
        self._new, self._sorted, self._begins = [], None, False

    @property
    def _kept(self) -> SeenRuns:
        if self._runs is None:
            raise LostError
        return self._runs

    def _add(self, ids: Ids, of: int) -> None:
        if ids.shape[1]:
            self._new.append((ids, np.full(ids.shape[1], of, np.int64)))
            self._sorted = None

    def _parts(self, of: int) -> Iterator[Ids]:
        for ids, numbers in chain(self._new, () if self._begins else self._stored.parts()):
            chosen = numbers == of
            if chosen.any():
                yield ids if chosen.all() else ids[:, chosen]


def _joined(parts: list[tuple[Ids, Numbers]]) -> tuple[Ids, Numbers]:
    return np.hstack([ids for ids, _ in parts]), np.concatenate([numbers for _, numbers in parts])
