"""Removes what merged shards leave behind, once nobody reads it; what runs wrote late is carried over first."""

from __future__ import annotations

from datetime import datetime

from caption_assets.consolidation.captions import captioned_shards, carry_captions, remove_failures
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake
from caption_assets.media import generations
from caption_assets.media.deletion import complete_deletions
from caption_assets.media.stored import read_whole_index
from caption_assets.sources.known import plans_from


def sweep(lake: Lake, dataset: str, before: datetime, run_id: str) -> list[Shard]:
    """Remove the files of shards merged before an instant; returns these shards.

    The plan goes last: what a run that dies leaves is found by it, and what comes later by its captions' folder.
    """
    ledger = read_ledger(lake, dataset)
    due = {part: each.successor for each in ledger.done() if each.changed_at <= before for part in each.parts}
    if not due:
        return []
    there = {shard.key for shard in plans_from(lake, dataset, 0)} | captioned_shards(lake, dataset)
    swept = [part for part in sorted(due) if part.key in there]
    names = lake.list(layout.media_folder(dataset)) if swept else []
    for part in swept:
        carry_captions(lake, part, due[part])
        remove_failures(lake, part)
        lake.remove(layout.media_index(part))
        for name in names:
            generation = layout.segment_generation(part, name)
            if generation is not None:
                lake.remove(layout.segment(part, generation))
        lake.remove(layout.plan_file(part))
    for successor in sorted({due[part] for part in swept}):
        complete_deletions(lake, successor, run_id)
        generations.remove_replaced(lake, successor, read_whole_index(lake, successor), names)
    return swept
