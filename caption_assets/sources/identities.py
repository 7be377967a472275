"""Sets of items by 128-bit identities, on the local disk: sorted files that are searched without being read.

An identity is two hashes of 64 bits: `high` of the URI alone, so that all items of a URI stand together, and `low` of
URI and etag. Each identity has a number. New ones come in sorted tables of their own; tables of like size are merged,
so there are logarithmically many, and each identity is rewritten logarithmically often (O'Neil et al., The
log-structured merge-tree, 1996).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]
"""Identities, of shape (2, n): high and low."""
Numbers = npt.NDArray[np.int64]
"""A number for each of n identities; ABSENT: none."""

ABSENT = -1
_MANIFEST = "manifest.json"
_PART = 1 << 19
"""Rows merged at a time: 12 MB of each table."""


def identities(keys: Iterable[tuple[str, str]]) -> Ids:
    """The identities of (uri, etag) pairs, in their order; shape (2, n)."""
    digests = bytearray()
    for uri, etag in keys:
        name = uri.encode("utf-8", "surrogatepass")
        version = etag.encode("utf-8", "surrogatepass")
        digests += hashlib.blake2b(name, digest_size=8).digest()
        digests += hashlib.blake2b(b"%d:%b%b" % (len(name), name, version), digest_size=8).digest()
    return ids_of(bytes(digests))


def ids_of(digests: bytes) -> Ids:
    """Identities of digests of 16 bytes, which stand one behind the other; shape (2, n)."""
    return np.ascontiguousarray(np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2).T)


def high_of(uri: str) -> np.uint64:
    """What all identities of a URI begin with."""
    return np.uint64(highs_of([uri])[0])


def highs_of(uris: Iterable[str]) -> npt.NDArray[np.uint64]:
    """`high_of` of each URI."""
    digests = (hashlib.blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=8).digest() for uri in uris)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


class IdentityTables:
    """Identities with numbers, in a folder that several processes may use.

    `about` is what the owner wants to be told again with them; it is replaced atomically together with the set of
    tables. Folders of another make or with damaged files are empty ones.

    Args:
        largest: rows of a table that tables are merged into at most: what bounds the time that `add` takes, at the
            price of more tables to search. None: no bound.
    """

    def __init__(self, folder: Path, *, largest: int | None = None) -> None:
        self.folder = folder
        self._largest = math.inf if largest is None else largest
        self.about: dict[str, Any] = {}
        self._names: list[str] = []
        self._tables: list[npt.NDArray[np.uint64]] = []
        folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self.reload()

    def __len__(self) -> int:
        return sum(table.shape[1] for table in self._tables)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that changes the folder."""
        with (self.folder / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def reload(self) -> None:
        """Take over what another process wrote; the lock must be held."""
        try:
            manifest = json.loads((self.folder / _MANIFEST).read_bytes())
            tables = [np.load(self.folder / name, mmap_mode="r") for name in manifest["tables"]]
            if any(table.ndim != 2 or table.shape[0] != 3 or table.dtype != np.uint64 for table in tables):
                raise ValueError("another make")
            self._names, self._tables, self.about = [*manifest["tables"]], tables, dict(manifest["about"])
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            self._names, self._tables, self.about = [], [], {}

    def clear(self, about: dict[str, Any]) -> None:
        """Forget everything; the lock must be held."""
        self._names, self._tables = [], []
        self._save(about)

    def add(self, ids: Ids, numbers: Numbers, about: dict[str, Any]) -> None:
        """Add identities; the lock must be held, and nobody may have changed the folder since the last `reload`."""
        if ids.shape[1]:
            self._append(sorted_table(ids, numbers))
        while self._to_be_merged():
            last, before = self._tables.pop(), self._tables.pop()
            del self._names[-2:]
            self._append_merged(before, last)
        self._save(about)

    def find(self, ids: Ids) -> Numbers:
        """The numbers of identities, the highest of each; ABSENT of those that are not there."""
        found = np.full(ids.shape[1], ABSENT, np.int64)
        for table in self._tables:
            find_in(table, ids, found)
        return found

    def numbers_of(self, high: np.uint64) -> set[int]:
        """The numbers of all items of a URI (and, once in a long while, of another one)."""
        found: set[int] = set()
        for table in self._tables:
            start, end = np.searchsorted(table[0], high), np.searchsorted(table[0], high, side="right")
            found.update(int(number) for number in table[2, start:end])
        return found

    def has_uris(self, highs: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Of which URIs there is an item (or, once in a long while, of another one)."""
        found = np.zeros(len(highs), np.bool_)
        for table in self._tables:
            at = np.searchsorted(table[0], highs)
            at[at == table.shape[1]] -= 1
            found |= table[0, at] == highs
        return found

    def parts(self) -> Iterator[tuple[Ids, Numbers]]:
        """All identities with their numbers, a part at a time; one that was added twice comes twice."""
        for table in self._tables:
            for start in range(0, table.shape[1], _PART):
                part = np.array(table[:, start : start + _PART])
                yield part[:2], part[2].astype(np.int64)

    def _to_be_merged(self) -> bool:
        """Whether the last two tables are: when they are of like size, and not too large together."""
        sizes: list[int] = [0, 0, *(table.shape[1] for table in self._tables)]
        before, last = sizes[-2:]
        return 0 < before < 2 * last and before + last <= self._largest

    def _append(self, rows: npt.NDArray[np.uint64]) -> None:
        name = f"{uuid.uuid4().hex}.npy"
        with (self.folder / name).open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())
        self._take(name)

    def _append_merged(self, first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> None:
        """One table of two, cut at the same values into parts that fit into memory."""
        name, size = f"{uuid.uuid4().hex}.npy", first.shape[1] + second.shape[1]
        cuts = np.unique(first[0, _PART::_PART])
        firsts = [0, *np.searchsorted(first[0], cuts).tolist(), first.shape[1]]
        seconds = [0, *np.searchsorted(second[0], cuts).tolist(), second.shape[1]]
        with (self.folder / name).open("wb") as file:
            header = {"descr": "<u8", "fortran_order": False, "shape": (3, size)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
            begin, done = file.tell(), 0
            for number in range(len(firsts) - 1):
                part = np.hstack(
                    [first[:, firsts[number] : firsts[number + 1]], second[:, seconds[number] : seconds[number + 1]]]
                )
                order = np.argsort(part[0], kind="stable")  # which merges: both are in order
                for row in range(3):
                    file.seek(begin + 8 * (row * size + done))
                    file.write(part[row, order].astype("<u8", copy=False).tobytes())
                done += len(order)
            file.flush()
            os.fsync(file.fileno())
        self._take(name)

    def _take(self, name: str) -> None:
        self._names.append(name)
        self._tables.append(np.load(self.folder / name, mmap_mode="r"))

    def _save(self, about: dict[str, Any]) -> None:
        """Make the tables the folder's, and delete those that are no longer part of it."""
        temporary = self.folder / f"{_MANIFEST}.tmp"
        with temporary.open("w") as file:
            json.dump({"tables": self._names, "about": about}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / _MANIFEST)
        self.about = about
        for file_ in self.folder.glob("*.npy"):
            if file_.name not in self._names:
                file_.unlink(missing_ok=True)  # who has it open keeps it


def mixed(ids: Ids) -> int:
    """Both halves of all identities, by exclusive or; 0 of none."""
    return int(np.bitwise_xor.reduce(np.bitwise_xor.reduce(ids, axis=1)))


def sorted_table(ids: Ids, numbers: Numbers) -> npt.NDArray[np.uint64]:
    """Identities and numbers as `find_in` wants them, in the order of the first half; shape (3, n)."""
    return np.vstack([ids, numbers.astype(np.uint64)])[:, np.argsort(ids[0])]


def find_in(table: npt.NDArray[np.uint64], ids: Ids, found: Numbers) -> None:
    """Raise `found` to a table's numbers of these identities."""
    size = table.shape[1]
    at = np.searchsorted(table[0], ids[0])
    open_ = np.arange(ids.shape[1])
    while open_.size:  # as often as one URI has items
        open_ = open_[at[open_] < size]
        open_ = open_[table[0, at[open_]] == ids[0, open_]]
        hit = open_[table[1, at[open_]] == ids[1, open_]]
        found[hit] = np.maximum(found[hit], table[2, at[hit]].astype(np.int64))
        at[open_] += 1
