"""The runs of a listing that were seen before, on the local disk: the identities of a thousand files for one digest."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caption_assets.sources.base import Run
from caption_assets.sources.identities import ABSENT, IdentityTables, Ids, ids_of
from caption_assets.sources.known import Known

_LARGEST = 1 << 18
_SPARE = 100_000
"""Identities that may be kept of runs that are no more, and once more as many as there are files."""

_ROW = 16
"""Bytes."""

Rows = npt.NDArray[np.uint64]
"""Of shape (n, 2)."""


class SeenRuns:
    """By the digest of a run whose items are all planned, their identities.

    A file holds rows of two numbers of 64 bits: of each run how many identities follow and a checksum of them and the
    digest, then the identities. Where a run begins is what the digest's table says. What is damaged is not there.

    Args:
        folder: where they are kept.
        known: what is planned.
    """

    def __init__(self, folder: Path, known: Known) -> None:
        self._known = known
        self._starts = IdentityTables(folder, largest=_LARGEST)
        self._rows = self._stored()
        self._new: dict[bytes, Ids] = {}

    def find(self, runs: Sequence[Run]) -> list[Ids | None]:
        """The identities of the items of each run, if they are known and planned."""
        starts = self._starts.find(ids_of(b"".join(run.digest for run in runs))).tolist()
        return [self._of(run, start) for start, run in zip(starts, runs, strict=True)]

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
        if len(self._rows) - len(self._starts) > 2 * items + _SPARE:
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

    def _of(self, run: Run, start: int) -> Ids | None:
        """The identities of a run that is said to begin there."""
        ids = self._rows[start + 1 : start + 1 + run.count]
        if start == ABSENT or len(ids) < run.count or self._rows[start].tolist() != _head(run.digest, ids):
            return None
        return ids.T


def _packed(runs: Mapping[bytes, Ids]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """The rows of runs, and where among them each begins."""
    parts: list[Rows] = []
    for digest, ids in runs.items():
        parts += [np.array([_head(digest, ids.T)], np.uint64), ids.T]
    sizes = [1 + ids.shape[1] for ids in runs.values()]
    return np.concatenate(parts), np.cumsum([0, *sizes[:-1]])


def _head(digest: bytes, ids: Rows) -> list[int]:
    """What stands before a run: another run's, or a part of one, does not."""
    return [len(ids), int(np.bitwise_xor.reduce(ids, axis=None)) ^ int.from_bytes(digest[:8], "little")]
