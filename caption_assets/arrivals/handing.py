"""Which shards a tick hands over to be captioned."""

from __future__ import annotations

from caption_assets.arrivals.tick import Outcome
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import standing_ledger
from caption_assets.lake.store import Lake
from caption_assets.sources.known import plans_from

AT_ONCE = 1000
"""Shards that one tick hands over."""
_FEW = 20


def to_hand_over(lake: Lake, dataset: str, outcome: Outcome) -> list[Shard]:
    """Planned shards beyond the last one handed over that have no media, the first of them; none that is being merged.

    Where all of them have media, the cursor is moved past them.
    """
    first = outcome.cursor.handed_over + 1
    if first >= outcome.planned:
        return []
    beyond = plans_from(lake, dataset, first)
    if beyond:
        merging = standing_ledger(lake, dataset).hidden  # after the plans: a merge is announced before it has one
        beyond = [shard for shard in beyond if shard not in merging]
    new = set(outcome.new_shards)
    if len(set(beyond) - new) <= _FEW:
        found = [shard for shard in beyond if shard in new or not lake.exists(layout.media_index(shard))]
    else:
        stored = set(lake.list(layout.media_folder(dataset)))  # one listing, not N requests
        found = [shard for shard in beyond if f"{shard.key}.parquet" not in stored]
    if beyond and not found:
        outcome.cursor.handed_over = beyond[-1].number
    return found[:AT_ONCE]
