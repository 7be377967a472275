"""One reconciliation of a dataset: what does not fit together is found, and repaired where that is safe.

Repaired is what only adds: items are planned, shards registered, departed items marked. What would cost something, or
erase something, is only told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from caption_assets.arrivals.gone import left_of_round
from caption_assets.arrivals.seen import Seen
from caption_assets.config import KafkaDataset, PipelineConfig
from caption_assets.consolidation.captions import captioned_shards
from caption_assets.lake import layout, tables
from caption_assets.lake.departures import departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import Ledger, give_up_taken, read_ledger
from caption_assets.lake.store import Lake, LakeFull
from caption_assets.reconciliation.report import Reconciled
from caption_assets.sources.identities import identities
from caption_assets.sources.known import Known, plans_from
from caption_assets.sources.planner import Planner, open_source, planned_shards

_AT_ONCE = 1000
_THREADS = 16


@dataclass(frozen=True)
class Registry:
    """Dagster's partitions, for who must not know Dagster."""

    registered: Callable[[], Collection[str]]
    """All keys."""
    add: Callable[[Iterable[Shard]], Sequence[str]]
    remove: Callable[[Iterable[Shard]], Sequence[str]]
    busy: Callable[[], Collection[str]]
    """Keys of the shards in queued or running runs."""


def reconcile(
    config: PipelineConfig, lake: Lake, dataset: str, run_id: str, registry: Registry | None = None
) -> Reconciled:
    """Compare a dataset's source, plans, files and partitions, and save the report in the lake.

    Args:
        registry: None: there is no Dagster instance to compare with.
    """
    report = Reconciled(dataset, run_id, tables.now())
    new = _compare_source(config, lake, report)
    give_up_taken(lake, dataset)
    shards = planned_shards(lake, dataset)
    ledger = read_ledger(lake, dataset)
    report.shards = len(shards)
    busy = set(registry.busy()) if registry else set()
    if registry:
        report.add("unregistered", registry.add(shards), repaired=True)
    _compare_media(lake, dataset, [each for each in shards if each.key not in busy and each not in new], report)
    taken = {shard.key for shard in plans_from(lake, dataset, 0)} | {shard.key for shard in ledger.retired}
    report.add("without plan", sorted(_with_files(lake, dataset) - taken), repaired=False)
    report.add("merge pending", (each.successor.key for each in ledger.pending()), repaired=False)
    if registry:
        _compare_partitions(dataset, registry, taken, ledger, report)
    report.save(lake)
    return report


def _compare_source(config: PipelineConfig, lake: Lake, report: Reconciled) -> list[Shard]:
    """Plan what is not planned, and mark what is gone; returns the shards that were planned now."""
    dataset, settings = report.dataset, config.datasets[report.dataset]
    if isinstance(settings, KafkaDataset):  # a topic says what came, not what there is
        return []
    known = Known(lake, dataset)
    known.catch_up()
    first, marked, scanned = known.next, departed(lake, dataset), 0
    with tempfile.TemporaryDirectory(prefix="caption-assets-") as folder:
        seen = Seen(Path(folder), report.run_id, begins=True)
        try:
            source = open_source(config, dataset, settle=settings.watch)
            planner = Planner(lake, dataset, known, source, settings.shard_size)
            items = iter(source.scan())
            while chunk := list(islice(items, _AT_ONCE)):
                ids = identities(item.key for item in chunk)
                seen.add(ids)
                planner.offer_known(chunk, ids)
                scanned += len(chunk)
            planner.close()
        except LakeFull:
            raise
        except OSError as error:
            report.problem = f"the source cannot be read, so nothing is compared with it: {error}"
            return []
        report.scanned = scanned
        report.add("unplanned", (shard.key for shard in planner.shards), count=planner.items, repaired=True)
        left = left_of_round(lake, dataset, known, seen, first, marked)
    report.problem = left.refused
    record(lake, dataset, left.gone, left.back, report.run_id)
    report.add("gone", (item.uri for item in left.gone), repaired=True)
    report.add("back", (item.uri for item in left.back), repaired=True)
    return planner.shards


def _compare_media(lake: Lake, dataset: str, shards: Sequence[Shard], report: Reconciled) -> None:
    """Find shards without an index, and indexes without their segment. One listing; each index is read."""
    sizes = lake.sizes(layout.media_folder(dataset))
    indexed = [shard for shard in shards if f"{shard.key}.parquet" in sizes]
    report.add("no media", (shard.key for shard in shards if f"{shard.key}.parquet" not in sizes), repaired=False)
    with ThreadPoolExecutor(_THREADS) as pool:
        ends = list(pool.map(lambda shard: _ends(lake, shard), indexed))
    lost = [
        shard.key
        for shard, needed in zip(indexed, ends, strict=True)
        if any(sizes.get(segment, -1) < end for segment, end in needed.items())
    ]
    report.add("segment lost", lost, repaired=False)


def _ends(lake: Lake, shard: Shard) -> dict[str, int]:
    """How long each segment of a shard must be."""
    columns = ["segment", "offset", "length", "original_offset", "original_length"]
    try:
        rows: list[dict[str, Any]] = lake.read_columns([layout.media_index(shard)], tables.MEDIA, columns).to_pylist()
    except FileNotFoundError:  # merged or removed meanwhile
        return {}
    ends: dict[str, int] = {}
    for row in rows:
        end = max(
            (row["offset"] or 0) + (row["length"] or 0), (row["original_offset"] or 0) + (row["original_length"] or 0)
        )
        ends[row["segment"]] = max(end, ends.get(row["segment"], 0))
    return ends


def _with_files(lake: Lake, dataset: str) -> set[str]:
    """The keys of all shards of a dataset of which there is media, a failure or a caption."""
    names = lake.list(layout.media_folder(dataset))
    for stage in lake.list("failures"):
        names += lake.list(f"failures/{stage}/dataset={dataset}")
    keys = {name.split(".parquet")[0] for name in names if name.endswith(".parquet")}
    return {key for key in keys | captioned_shards(lake, dataset) if _dataset(key) == dataset}


def _compare_partitions(
    dataset: str, registry: Registry, taken: Collection[str], ledger: Ledger, report: Reconciled
) -> None:
    """Find partitions that are no shard's; those of merged shards are removed."""
    keys = [key for key in registry.registered() if _dataset(key) == dataset]
    report.add("retired partition", registry.remove(ledger.retired), repaired=True)
    report.add("partition without plan", (key for key in keys if key not in taken), repaired=False)


def _dataset(key: str) -> str | None:
    """The dataset of a shard's key; None for what is none."""
    try:
        return Shard.parse(key).dataset
    except ValueError:
        return None
