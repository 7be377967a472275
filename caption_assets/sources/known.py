"""Which items of a dataset are planned, and where: a copy of what the plans say, on the local disk.

The plans in the lake are the truth. The copy is brought up to date from plans with higher numbers only, and made anew
where it was lost or belongs to another lake in the same place: to see that, it remembers what some plan files were.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import numpy as np

from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.cache import cache_folder
from caption_assets.sources.identities import ABSENT, IdentityTables, Ids, Numbers, highs_of, identities

_FIRST, _FILES, _ROWS = 16, 500, 200_000
"""Plan files read at once: first, and at most, and rows that they are to have together."""
_STAMPS = 8
_SEVEN_DIGITS = 999_999
"""From here on the order of names is not that of numbers."""
_RECENT = 50_000
"""Identities held in memory before they become a table."""


class Known:
    """The planned items of a dataset."""

    def __init__(self, lake: Lake, dataset: str) -> None:
        self._lake, self._dataset = lake, dataset
        self._tables = IdentityTables(cache_folder("planned", lake, dataset))
        self._recent: dict[tuple[int, int], int] = {}
        self._since = 0  # the first shard whose identities are in `_recent`
        self.next = 0
        """The number of the next shard."""
        with self._tables.locked():
            self._tables.reload()
            if not self._is_of_this_lake():
                self._tables.clear(_nothing())
            self._adopt()

    @property
    def made(self) -> str:
        """Names this copy: what was planned by it is planned as long as the name is the same."""
        return str(self._tables.about.get("made", ""))

    def __len__(self) -> int:
        return len(self._tables) + len(self._recent)

    def catch_up(self, seconds: float = inf) -> int:
        """Read plans that others made.

        Args:
            seconds: after so long the rest is left for the next call.

        Returns:
            How many plans are still to be read.
        """
        self.flush()
        until = time.monotonic() + seconds
        unread = plans_from(self._lake, self._dataset, self.next)
        at_once = _FIRST
        while unread:
            batch, unread = unread[:at_once], unread[at_once:]
            ids, numbers = _read(self._lake, batch)
            self._store(ids, numbers, batch[-1].number + 1)
            unread = [shard for shard in unread if shard.number >= self.next]
            at_once = max(1, min(_ROWS * len(batch) // (len(numbers) + 1), _FILES))
            if time.monotonic() > until:
                break
        return len(unread)

    def find(self, ids: Ids) -> Numbers:
        """The numbers of the shards of items, the latest of each; ABSENT of those that are not planned."""
        found = self._tables.find(ids)
        if self._recent:
            for place, key in enumerate(keys_of(ids)):
                found[place] = max(int(found[place]), self._recent.get(key, ABSENT))
        return found

    def has_uris(self, uris: Sequence[str]) -> list[bool]:
        """Of which URIs some version is planned."""
        highs = highs_of(uris)
        recent = {high for high, _ in self._recent}
        found: list[bool] = self._tables.has_uris(highs).tolist()
        return [each or high in recent for each, high in zip(found, highs.tolist(), strict=True)] if recent else found

    def shards_with(self, high: np.uint64) -> list[Shard]:
        """The shards of all items of a URI, by the first half of their identities."""
        recent = {number for (each, _), number in self._recent.items() if each == int(high)}
        return [Shard(self._dataset, number) for number in sorted(self._tables.numbers_of(high) | recent)]

    def parts(self) -> Iterator[tuple[Ids, Numbers]]:
        """All identities with their shards' numbers; what stands in several shards comes several times."""
        self.flush()
        return self._tables.parts()

    def add(self, shard: Shard, ids: Ids) -> None:
        """Take note of the plan with the next number, which is in the lake."""
        self._recent.update(dict.fromkeys(keys_of(ids), shard.number))
        self.next = shard.number + 1
        if len(self._recent) >= _RECENT:
            self.flush()

    def flush(self) -> None:
        """Store what was added."""
        if self.next != self._since:
            ids = np.array([*self._recent], np.uint64).reshape(-1, 2).T
            self._store(ids, np.array([*self._recent.values()], np.int64), self.next)

    def _store(self, ids: Ids, numbers: Numbers, following: int) -> None:
        """Store identities of plans from `_since` on, so that the next one is `following`."""
        with self._tables.locked():
            self._tables.reload()
            stored = int(self._tables.about.get("next", 0))
            if self._since <= stored < following:  # else another process has read these plans, or has cleared all
                new = numbers >= stored
                self._tables.add(ids[:, new], numbers[new], self._about(following))
            elif not self._tables.about:
                self._tables.clear(_nothing())
            self._adopt()

    def _adopt(self) -> None:
        """Go on from what is stored."""
        self.next = self._since = int(self._tables.about["next"])
        self._recent = {}

    def _about(self, following: int) -> dict[str, Any]:
        stamps = [*self._tables.about.get("stamps", [])]
        for number in sorted({int(self._tables.about["next"]), following - 1}):
            stamp = self._lake.stamp(layout.plan_file(Shard(self._dataset, number)))
            stamps += [[number, stamp]] if stamp else []
        first, last = stamps[: _STAMPS // 2], stamps[_STAMPS // 2 :][-_STAMPS // 2 :]
        return {**self._tables.about, "next": following, "stamps": first + last}

    def _is_of_this_lake(self) -> bool:
        """Whether the plans that were read last are still the same ones.

        The latest may be gone where shards were merged into a later one; then there are later ones.
        """
        about = self._tables.about
        if not about.get("stamps"):
            return False
        for age, (number, stamp) in enumerate(reversed(about["stamps"])):
            now = self._lake.stamp(layout.plan_file(Shard(self._dataset, number)))
            if now is not None:
                later = age == 0 or bool(plans_from(self._lake, self._dataset, about["next"]))
                return bool(now == stamp) and later
        return False


def _nothing() -> dict[str, Any]:
    return {"next": 0, "stamps": [], "made": uuid.uuid4().hex}


def keys_of(ids: Ids) -> list[tuple[int, int]]:
    """Identities as Python has them."""
    return list(zip(ids[0].tolist(), ids[1].tolist(), strict=True))


def plans_from(lake: Lake, dataset: str, number: int) -> list[Shard]:
    """The plans of a dataset with this number or a higher one, in order."""
    after = f"{Shard(dataset, number - 1).key}.parquet" if 0 < number < _SEVEN_DIGITS else ""
    shards = (shard_of(name) for name in lake.list_after(layout.plan_folder(dataset), after))
    return sorted(each for each in shards if each is not None and each.dataset == dataset and each.number >= number)


def shard_of(name: str) -> Shard | None:
    """The shard of a plan file; None for what others put beside."""
    try:
        return Shard.parse(name.removesuffix(".parquet")) if name.endswith(".parquet") else None
    except ValueError:
        return None


def _read(lake: Lake, shards: Sequence[Shard]) -> tuple[Ids, Numbers]:
    """The identities in plans, with the plans' numbers; none of a plan that was removed meanwhile."""
    columns = ["shard", "uri", "etag"]
    try:
        table = lake.read_columns([layout.plan_file(shard) for shard in shards], tables.PLAN, columns)
    except FileNotFoundError:
        there = [shard for shard in shards if lake.exists(layout.plan_file(shard))]
        table = lake.read_columns([layout.plan_file(shard) for shard in there], tables.PLAN, columns)
    ids = identities(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
    named = table["shard"].combine_chunks().dictionary_encode()
    numbers = np.array([Shard.parse(name).number for name in named.dictionary.to_pylist()], np.int64)
    return ids, numbers[named.indices.to_numpy()] if len(numbers) else np.empty(0, np.int64)
