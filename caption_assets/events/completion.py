"""Events of datasets: every planned shard has its media and its captions, or failures that say why not.

What is complete is asked of kept counts, and only once listings of files leave no doubt open: a tick every few seconds
must not go through a large lake each time a shard is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.captioning.catalog import open_counts
from caption_assets.config import PipelineConfig
from caption_assets.events.event import Event
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards

_SHARDS = """
SELECT count(*) AS shards, sum(planned) AS planned, sum(media) AS media, sum(pictures) AS pictures,
       sum(media_failures) AS media_failures, count(*) FILTER (media + media_failures < planned) AS open
FROM shards WHERE dataset = ?
"""
_OPEN = "SELECT count(*) FROM rows.open_counts WHERE dataset = ? AND reason <> 'failed'"
_FAILED = (
    "SELECT perspective, sum(n)::BIGINT FROM rows.open_counts WHERE dataset = ? AND reason = 'failed' GROUP BY ALL"
)
_SECONDS = 20.0


def completion(config: PipelineConfig, lake: Lake, dataset: str, at: datetime) -> Event | None:
    """The event of a dataset that is complete now; None while anything is missing.

    Its identity is what is complete: the shards planned, and the form of each perspective. So it is told again when a
    new shard, or a changed perspective, is done as well, and not when shards are merged.

    Raises StillCounting while the lake is not looked through: ask again.
    """
    shards, bound = planned_shards(lake, dataset), bind_perspectives(config)
    if not shards or _surely_open(lake, dataset, shards, bound):
        return None
    with open_counts(config, seconds=_SECONDS) as views:
        counts = views.execute(_SHARDS, [dataset])
        row = dict(zip((column[0] for column in counts.description), counts.fetchone() or (), strict=True))
        if row["open"] or views.execute(_OPEN, [dataset]).fetchone() != (0,):
            return None
        failed = dict(views.execute(_FAILED, [dataset]).fetchall())
    planned = read_ledger(lake, dataset).as_planned(shards)
    identity = [
        dataset,
        planned[-1].key,
        str(len(planned)),
        *(f"{each.name}={each.fingerprint}" for each in bound.values()),
    ]
    return Event.of("dataset.completed", identity, at, [dataset], _data(lake, dataset, row, bound, failed))


def _data(
    lake: Lake,
    dataset: str,
    row: Mapping[str, Any],
    bound: Mapping[str, BoundPerspective],
    failed: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "shards": row["shards"],
        "planned": int(row["planned"]),
        "pictures": int(row["pictures"]),
        "media_failures": int(row["media_failures"]),
        "perspectives": [
            {
                "perspective": each.name,
                "fingerprint": each.fingerprint,
                "captions": int(row["pictures"]) - failed.get(each.name, 0),
                "failed": failed.get(each.name, 0),
                "results": {
                    "rows": lake.url(f"{layout.fingerprint_folder(each.name, each.fingerprint)}/dataset={dataset}")
                },
            }
            for each in bound.values()
        ],
        "results": {
            "plan": lake.url(layout.plan_folder(dataset)),
            "index": lake.url(layout.media_folder(dataset)),
            "catalog": lake.url(layout.CATALOG),
        },
    }


def _surely_open(lake: Lake, dataset: str, shards: list[Shard], bound: Mapping[str, BoundPerspective]) -> bool:
    """Whether a shard lacks its media, or has pictures but nothing of some perspective."""
    stored = set(lake.list(layout.media_folder(dataset)))
    if any(f"{shard.key}.parquet" not in stored for shard in shards):
        return True
    return any(_lacks(lake, dataset, shards, each) for each in bound.values())


def _lacks(lake: Lake, dataset: str, shards: list[Shard], bound: BoundPerspective) -> bool:
    folder = f"{layout.fingerprint_folder(bound.name, bound.fingerprint)}/dataset={dataset}"
    there = {name.removeprefix("shard=") for name in lake.list(folder)}
    there |= {name.removesuffix(".parquet") for name in lake.list(f"failures/stage={bound.name}/dataset={dataset}")}
    return any(
        lake.read_table(layout.media_index(shard), ["media_id"]).num_rows > 0
        for shard in shards
        if shard.key not in there
    )
