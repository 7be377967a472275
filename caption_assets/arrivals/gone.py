"""What left a source: planned items that a whole round of the scan did not see, and those that are back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from caption_assets.arrivals.seen import Seen, Sum
from caption_assets.lake import layout
from caption_assets.lake.departures import Departed
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.identities import ABSENT, Ids, find_in, high_of, identities, sorted_table
from caption_assets.sources.known import Known, keys_of

AT_ONCE = 20_000
"""Items that one round may mark; the next one marks more."""
_SHARDS_AT_ONCE = 1_000
"""Of which the plans have to be read."""
_READERS = 16
SUSPICIOUS = 100
"""Where fewer than one in so many planned items is seen, the place itself may be away."""

Keys = Collection[tuple[str, str]]
"""Items by (uri, etag)."""


@dataclass(frozen=True)
class Left:
    """What is to be marked."""

    gone: Sequence[Departed] = ()
    back: Sequence[Departed] = ()
    refused: str = ""
    """Why nothing is marked although much is gone."""


def left_of_round(lake: Lake, dataset: str, known: Known, seen: Seen, first: int, marked: Keys) -> Left:
    """What a whole round tells.

    Args:
        first: the first shard that was planned after the round began: it tells nothing of that one and later ones.
        marked: items that are marked as gone.

    Raises:
        LostError: what was seen is not known any more.
    """
    marked_ids = identities(marked)
    if seen.sum() == _sum_of_planned(known, first, marked_ids):
        return Left()  # which is quick, and what most rounds tell
    seen.spread()
    planned = len(known) - len(marked)
    there = _count_known(known, seen, enough=-(-planned // SUSPICIOUS))
    if planned >= SUSPICIOUS and there * SUSPICIOUS < planned:
        some = f"{there:,}" if there else "none"
        return Left(refused=f"{some} of {planned:,} planned items is there: the place itself may be away")
    back = _back(dataset, known, seen, marked)
    marked_table = sorted_table(marked_ids, np.zeros(marked_ids.shape[1], np.int64))
    gone: dict[int, set[tuple[int, int]]] = {}
    count = 0
    for ids, numbers in known.parts():
        away = (numbers < first) & ~seen.has(ids)
        ids, numbers = ids[:, away], numbers[away]
        was = np.full(len(numbers), ABSENT, np.int64)
        find_in(marked_table, ids, was)
        ids, numbers = ids[:, was == ABSENT], numbers[was == ABSENT]
        new = known.find(ids) == numbers  # else it was merged into another shard
        for key, number in zip(keys_of(ids[:, new]), numbers[new].tolist(), strict=True):
            if count < AT_ONCE and (number in gone or len(gone) < _SHARDS_AT_ONCE):
                gone.setdefault(number, set()).add(key)
                count += 1
    shards = [Shard(dataset, number) for number in sorted(gone)]
    return Left(
        [each for shard, planned in _plans(lake, shards) for each in _named(shard, planned, gone[shard.number])], back
    )


def left_by_uri(lake: Lake, known: Known, uris: Sequence[str], marked: Keys) -> list[Departed]:
    """The planned items of URIs that are gone."""
    by_shard: dict[Shard, set[str]] = {}
    for uri in uris:
        for shard in known.shards_with(high_of(uri)):
            by_shard.setdefault(shard, set()).add(uri)
    return [
        Departed(shard.key, uri, etag)
        for shard, planned in _plans(lake, sorted(by_shard))
        for uri, etag in planned
        if uri in by_shard[shard] and (uri, etag) not in marked
    ]


def back_again(dataset: str, known: Known, keys: Keys) -> list[Departed]:
    """Marked items that are there again."""
    numbers = known.find(identities(keys)).tolist()
    pairs = zip(keys, numbers, strict=True)
    return [Departed(Shard(dataset, number).key, uri, etag) for (uri, etag), number in pairs if number != ABSENT]


def _sum_of_planned(known: Known, first: int, marked: Ids) -> Sum:
    """What is there if nothing is gone, back or new."""
    found = Sum()
    for ids, numbers in known.parts():
        found.add(ids[:, numbers < first])
    found.remove(marked)
    return found


def _count_known(known: Known, seen: Seen, enough: int) -> int:
    """How many seen items are planned; once there are enough, no more are counted."""
    count = 0
    for ids in seen.parts():
        count += int((known.find(ids) != ABSENT).sum())
        if count >= enough:
            break
    return count


def _back(dataset: str, known: Known, seen: Seen, marked: Keys) -> list[Departed]:
    if not marked:
        return []
    here = seen.has(identities(marked))
    return back_again(dataset, known, [key for key, is_here in zip(marked, here.tolist(), strict=True) if is_here])


def _named(shard: Shard, planned: Sequence[tuple[str, str]], keys: set[tuple[int, int]]) -> list[Departed]:
    """The items of a shard with these identities."""
    found = zip(keys_of(identities(planned)), planned, strict=True)
    return [Departed(shard.key, uri, etag) for key, (uri, etag) in found if key in keys]


def _plans(lake: Lake, shards: Sequence[Shard]) -> list[tuple[Shard, list[tuple[str, str]]]]:
    """The keys of the items of shards, several read at once."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="plans") as pool:
        return list(zip(shards, pool.map(lambda shard: _planned(lake, shard), shards), strict=True))


def _planned(lake: Lake, shard: Shard) -> list[tuple[str, str]]:
    """The keys of a shard's items; none where it was merged into another one."""
    try:
        table = lake.read_table(layout.plan_file(shard), ["uri", "etag"])
    except FileNotFoundError:
        return []
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
