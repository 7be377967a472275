"""What left a source: planned items that a whole round of the scan did not see, and those that are back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from caption_assets.arrivals.seen import Seen
from caption_assets.lake import layout
from caption_assets.lake.departures import Departed
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.identities import ABSENT, Ids, find_in, high_of, identities, sorted_table
from caption_assets.sources.known import Known, keys_of

AT_ONCE = 20_000
"""Items that one round may mark; the next one marks more."""
SUSPICIOUS = 100
"""Where this many items are planned and none is seen, the place itself is away rather than all of them."""

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
    """
    back = _back(dataset, known, seen, marked)
    marked_ids = identities(marked)
    marked_table = sorted_table(marked_ids, np.zeros(marked_ids.shape[1], np.int64))
    total = there = 0
    gone: dict[int, set[tuple[int, int]]] = {}
    count = 0
    for ids, numbers in known.parts():
        ids, numbers = ids[:, numbers < first], numbers[numbers < first]
        here = seen.has(ids)
        total, there = total + len(here), there + int(here.sum())
        away = ids[:, ~here]
        shards = numbers[~here]
        was = np.full(len(shards), ABSENT, np.int64)
        find_in(marked_table, away, was)
        new = (was == ABSENT) & (known.find(away) == shards)  # else it was merged into another shard
        for key, number in zip(keys_of(away[:, new]), shards[new].tolist(), strict=True):
            if count < AT_ONCE:
                gone.setdefault(number, set()).add(key)
                count += 1
    if not there and total - len(marked) >= SUSPICIOUS:
        return Left(refused=f"none of {total - len(marked):,} planned items is there: the place itself may be away")
    return Left([each for number in sorted(gone) for each in _named(lake, Shard(dataset, number), gone[number])], back)


def left_by_uri(lake: Lake, known: Known, uris: Sequence[str], marked: Keys) -> list[Departed]:
    """The planned items of URIs that are gone."""
    by_shard: dict[Shard, set[str]] = {}
    for uri in uris:
        for shard in known.shards_with(high_of(uri)):
            by_shard.setdefault(shard, set()).add(uri)
    return [
        Departed(shard.key, uri, etag)
        for shard, wanted in sorted(by_shard.items())
        for uri, etag in _planned(lake, shard)
        if uri in wanted and (uri, etag) not in marked
    ]


def back_again(dataset: str, known: Known, keys: Keys) -> list[Departed]:
    """Marked items that are there again."""
    numbers = known.find(identities(keys)).tolist()
    pairs = zip(keys, numbers, strict=True)
    return [Departed(Shard(dataset, number).key, uri, etag) for (uri, etag), number in pairs if number != ABSENT]


def _back(dataset: str, known: Known, seen: Seen, marked: Keys) -> list[Departed]:
    if not marked:
        return []
    here = seen.has(identities(marked))
    return back_again(dataset, known, [key for key, is_here in zip(marked, here.tolist(), strict=True) if is_here])


def _named(lake: Lake, shard: Shard, keys: set[tuple[int, int]]) -> list[Departed]:
    """The items of a shard with these identities."""
    planned = _planned(lake, shard)
    ids: Ids = identities(planned)
    return [
        Departed(shard.key, uri, etag) for key, (uri, etag) in zip(keys_of(ids), planned, strict=True) if key in keys
    ]


def _planned(lake: Lake, shard: Shard) -> list[tuple[str, str]]:
    """The keys of a shard's items; none where it was merged into another one."""
    try:
        table = lake.read_table(layout.plan_file(shard), ["uri", "etag"])
    except FileNotFoundError:
        return []
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
