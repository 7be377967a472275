"""The runs of a listing that were seen before, on the local disk: the identities of a thousand files for one digest."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caption_assets.sources.base import Run
from caption_assets.sources.identities import ABSENT, IdentityTables, Ids, Numbers, ids_of, mixed
from caption_assets.sources.known import Known

_LARGEST = 1 << 18
_SPARE = 100_000
"""Identities that may be kept of runs that are no more, and once more as many as there are files."""

_ROW = 16
"""Bytes."""
_HEAD = 2
"""Rows before a run's identities."""

Rows = npt.NDArray[np.uint64]
"""Of shape (n, 2)."""


class LostError(Exception):
    """What a run that was kept stands for is no longer known."""


class SeenRuns:
    """By the digest of a run whose items are all planned, their identities.

    A file holds rows of two numbers of 64 bits: of each run its digest, then how many identities follow and what they
    are mixed, then the identities. Where a run begins is what the digest's table says. What is damaged is not there.

    Args:
        folder: where they are kept.
        known: what is planned.
    """

    def __init__(self, folder: Path, known: Known) -> None:
        self._known = known
        self._starts = IdentityTables(folder, largest=_LARGEST)
        self._rows = self._stored()
        self._new: dict[bytes, Ids] = {}

    def find(self, runs: Sequence[Run]) -> list[bool]:
        """Which runs are known, and all of their items planned."""
        _, counts, _ = self._heads(ids_of(b"".join(run.digest for run in runs)))
        return [count == run.count for run, count in zip(runs, counts.tolist(), strict=True)]

    def sum(self, digests: Ids) -> tuple[int, int]:
        """How many identities runs have, and all of them `mixed`. Raises LostError."""
        _, counts, mixes = self._all_heads(digests)
        return int(counts.sum()), int(np.bitwise_xor.reduce(mixes))

    def identities(self, digests: Ids, most: int) -> Iterator[Ids]:
        """The identities of runs, about so many at a time. Raises LostError; then all is made anew."""
        starts, counts, mixes = self._all_heads(digests)
        parts = np.cumsum(counts) // most
        for part in np.unique(parts):
            begin, size = starts[parts == part], counts[parts == part]
            firsts = np.cumsum(size) - size
            ids = self._rows[np.repeat(begin - firsts, size) + np.arange(size.sum())].T
            if (np.bitwise_xor.reduceat(ids[0] ^ ids[1], firsts) != mixes[parts == part]).any():
                with self._starts.locked():
                    self._clear()
                raise LostError
            yield ids

    def add(self, run: Run, ids: Ids) -> None:
        """Take note of a run."""
        self._new[run.digest] = ids

    def store(self) -> None:
        """Keep, for the next tick, those runs of which all is planned by now."""
        new = {digest: ids for digest, ids in self._new.items() if (self._known.find(ids) != ABSENT).all()}
        self._new = {}
        if not new:
            return
        with self._starts.locked():
            self._starts.reload()
            if self._starts.about.get("known") != self._known.made or self._size() % _ROW:
                self._clear()
            rows, starts = _packed(new)
            first = self._size() // _ROW
            with self._file.open("ab") as file:
                file.write(rows.tobytes())
                file.flush()
                os.fsync(file.fileno())
            self._starts.add(ids_of(b"".join(new)), first + starts, self._starts.about)
        self._rows = self._stored()

    def tidy(self, items: int) -> None:
        """Begin anew where most of what is kept is of runs that are no more.

        Args:
            items: of all runs that are.
        """
        if len(self._rows) - _HEAD * len(self._starts) > 2 * items + _SPARE:
            with self._starts.locked():
                self._clear()
            self._rows = self._stored()

    def _clear(self) -> None:
        for file in self._starts.folder.glob("*.rows"):
            file.unlink(missing_ok=True)  # who has it open keeps it
        self._starts.clear({"known": self._known.made, "file": f"{uuid.uuid4().hex}.rows"})

    @property
    def _file(self) -> Path:
        return self._starts.folder / str(self._starts.about["file"])

    def _stored(self) -> Rows:
        """What is kept."""
        if self._starts.about.get("known") == self._known.made:
            try:
                return np.asarray(np.memmap(self._file, np.uint64, mode="r")).reshape(-1, 2)
            except (OSError, ValueError):
                pass
        return np.empty((0, 2), np.uint64)

    def _size(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0

    def _all_heads(self, digests: Ids) -> tuple[Numbers, Numbers, npt.NDArray[np.uint64]]:
        """`_heads` of runs that are known. Raises LostError."""
        heads = self._heads(digests)
        if (heads[1] == ABSENT).any():
            raise LostError
        return heads

    def _heads(self, digests: Ids) -> tuple[Numbers, Numbers, npt.NDArray[np.uint64]]:
        """Where the identities of runs begin, how many they are and what they are mixed; ABSENT of lost ones."""
        starts = self._starts.find(digests)
        size = len(self._rows)
        there = (starts != ABSENT) & (starts + _HEAD <= size)
        if not there.any():
            return starts, np.full(len(starts), ABSENT, np.int64), np.zeros(len(starts), np.uint64)
        places = np.where(there, starts, 0)
        digest, (counts, mixes) = self._rows[places].T, self._rows[places + 1].T
        there &= (digest == digests).all(axis=0) & (counts > 0) & (counts <= size)
        starts = starts + _HEAD
        there &= starts + counts.astype(np.int64) <= size
        return starts, np.where(there, counts.astype(np.int64), ABSENT), mixes


def _packed(runs: Mapping[bytes, Ids]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """The rows of runs, and where among them each begins."""
    parts: list[Rows] = []
    for digest, ids in runs.items():
        parts += [ids_of(digest).T, np.array([[ids.shape[1], mixed(ids)]], np.uint64), ids.T]
    sizes = [_HEAD + ids.shape[1] for ids in runs.values()]
    return np.concatenate(parts), np.cumsum([0, *sizes[:-1]])
