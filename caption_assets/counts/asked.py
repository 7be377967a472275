"""What is asked of the lake: which forms are wanted and shown, and what is hidden. Counts hold for that only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caption_assets.counts.listing import Listing, Mask, words_hash
from caption_assets.lake.current import read_current
from caption_assets.lake.definition import Wanted, Wants, forms_in, shown_of
from caption_assets.lake.departures import Departed, departed_items
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import Tombstones, read_tombstones


@dataclass(frozen=True)
class Asked:
    """It all, as of some instant; the listings must be older."""

    wants: Wants
    current: Mapping[str, str]
    shown: Mapping[str, str]
    tombstones: Tombstones
    away: Mapping[str, Sequence[Departed]]
    """By dataset, the items that are not to be seen, with the shards where they are now."""
    hidden: frozenset[str]
    """Shards that were merged, or are being filled."""
    inputs: frozenset[str] = field(default=frozenset())
    """Perspectives that others read."""

    @classmethod
    def read(cls, lake: Lake, wants: Wants, datasets: Iterable[str]) -> Asked:
        """As the lake and the pipeline file have it now."""
        current = read_current(lake)
        away: dict[str, list[Departed]] = {}
        hidden: set[str] = set()
        for dataset in datasets:
            ledger = read_ledger(lake, dataset)
            hidden |= {shard.key for shard in ledger.hidden}
            successors = {shard.key: successor.key for shard, successor in ledger.retired.items()}
            if dataset not in wants.retained:
                gone = departed_items(lake, dataset)
                away[dataset] = [Departed(successors.get(item.shard, item.shard), *item.key) for item in gone]
        return cls(
            wants,
            current,
            shown_of(forms_in(lake), current),
            read_tombstones(lake),
            away,
            frozenset(hidden),
            frozenset(name for each in wants.perspectives.values() for name in each.inputs),
        )

    @property
    def wanted(self) -> Mapping[str, Wanted]:
        """Of perspectives."""
        return self.wants.perspectives

    def terms(self, listing: Listing) -> dict[str, Mask]:
        """What the counts of which shards depend on beyond their files: each a perspective, and the form in question.

        Of a perspective whose wanted form a shard has nothing of, the counts say all that there is to say by the forms
        that are there, whatever is wanted. So a changed prompt makes nothing be counted again.
        """
        nothing = np.zeros(len(listing.numbers), np.bool_)
        terms = {}
        for name, each in self.wanted.items():
            mask = listing.captions.get((name, each.fingerprint), nothing) | listing.failures.get(name, nothing)
            inputs = (
                f"{other}={self.wanted[other].fingerprint if other in self.wanted else ''}" for other in each.inputs
            )
            terms[f"{name}={each.fingerprint} {' '.join(inputs)}"] = mask
        for name, mask in listing.failures.items():
            if name not in self.wanted and name in self.current:
                terms[f"{name}={self.current[name]} as it was"] = mask
        return {term: mask for term, mask in terms.items() if mask.any()}

    def mark(self, listing: Listing) -> None:
        """Let what is asked count as a part of what is listed, where a shard's counts depend on it."""
        forms: dict[str, list[Mask]] = {}
        for (name, _), mask in listing.captions.items():
            forms.setdefault(name, []).append(mask)
        for name, masks in forms.items():  # of one form there is nothing to choose
            if name in self.shown:
                listing.add(np.sum(masks, axis=0) > 1, f"shown {name} {self.shown[name]}")
        places = (
            {listing.shard(at).key: at for at in range(len(listing.numbers))} if self.away.get(listing.dataset) else {}
        )
        for item in self.away.get(listing.dataset, ()):
            if (at := places.get(item.shard)) is not None:
                listing.hashes[:, at] += words_hash(f"away {item.uri} {item.etag}")
