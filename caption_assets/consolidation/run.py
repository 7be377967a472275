"""One consolidation of a dataset: goes on with what is pending, merges what is small, removes what is merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import PipelineConfig
from caption_assets.consolidation.choosing import Choice, choose
from caption_assets.consolidation.merging import Disturbed, Merged, merge_shards, resume_pending
from caption_assets.consolidation.sweeping import sweep
from caption_assets.lake import tables
from caption_assets.lake.departures import hidden
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake


@dataclass
class Consolidated:
    """What a consolidation did."""

    dataset: str
    merged: list[Merged] = field(default_factory=list)
    waiting: Counter[str] = field(default_factory=Counter)
    """Small shards that were left alone, by why."""
    swept: list[Shard] = field(default_factory=list)
    """Merged shards whose files were removed."""
    retired: list[Shard] = field(default_factory=list)
    """All shards that were ever merged."""

    def __str__(self) -> str:
        lines = [
            f"{len(each.merge.parts)} shards → {each.merge.successor.key} ({each.items} items, {each.pictures} "
            f"pictures, {each.captions} captions)"
            for each in self.merged
        ]
        if self.waiting:
            told = ", ".join(f"{count} {why}" for why, count in sorted(self.waiting.items()))
            lines.append(f"small shards left alone: {told}")
        if self.swept:
            lines.append(f"files of {len(self.swept)} merged shards removed")
        return f"{self.dataset}: {'; '.join(lines) or 'nothing to merge'}"


def consolidate(
    config: PipelineConfig,
    lake: Lake,
    dataset: str,
    run_id: str,
    busy: Callable[[], Collection[str]] = frozenset,
    tell: Callable[[str], None] = lambda line: None,
) -> Consolidated:
    """Merge the small finished shards of a dataset.

    Args:
        busy: tells the keys of the shards in queued or running runs now.
        tell: receives a line for people at each merge.
    """
    now, section, settings = tables.now(), config.consolidation, config.datasets[dataset]
    report = Consolidated(dataset)
    resumed, held = resume_pending(lake, dataset, run_id, busy)
    report.merged += resumed
    for line in held:
        tell(line)
    choice = choose(
        lake,
        dataset,
        settings.shard_size,
        bind_perspectives(config),
        before=now - timedelta(hours=section.older_than_hours),
        busy=busy(),
        away=hidden(lake, dataset, retain=settings.retain),
    )
    report.waiting.update(choice.waiting)
    _merge(lake, choice, report, run_id, busy, tell)
    report.swept = sweep(lake, dataset, tables.now() - timedelta(hours=section.grace_hours), run_id)
    report.retired = sorted(read_ledger(lake, dataset).retired)
    return report


def _merge(
    lake: Lake,
    choice: Choice,
    report: Consolidated,
    run_id: str,
    busy: Callable[[], Collection[str]],
    tell: Callable[[str], None],
) -> None:
    for group in choice.groups:
        if {part.key for part in group}.intersection(busy()):
            report.waiting["in a run"] += len(group)
            continue
        try:
            merged = merge_shards(lake, group, run_id)
        except Disturbed as error:
            tell(str(error))
            report.waiting["in a run"] += len(group)
            continue
        if merged:
            report.merged.append(merged)
            tell(f"{', '.join(part.key for part in group)} → {merged.merge.successor.key}")
