"""What is wrong at one moment, by the limits of the pipeline file's `alerts`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf

from caption_assets.config import PipelineConfig
from caption_assets.config.alerts import Alerts
from caption_assets.config.callbacks import AlertType
from caption_assets.lake import layout
from caption_assets.lake.heartbeats import read_beats
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import read_ledger
from caption_assets.lake.status import KnownRuns
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards
from caption_assets.status.reading import Total, read_status

_BREAKER = "BreakerTripped"
_DAYS_OF_RUNS = 2


@dataclass(frozen=True)
class Condition:
    """Something that is wrong now."""

    alert: AlertType
    summary: str
    dataset: str | None = None
    perspective: str | None = None
    value: float | None = None
    limit: float | None = None

    @property
    def key(self) -> str:
        """What tells it from all others, however long it lasts."""
        return ":".join([self.alert, self.dataset or "", self.perspective or ""])


def last_arrival(lake: Lake, dataset: str) -> datetime | None:
    """When the newest items of a dataset were planned."""
    shards = planned_shards(lake, dataset)
    merged = read_ledger(lake, dataset).successors  # which have late numbers and early items
    latest = [shard for shard in shards if shard not in merged][-1:] + [shard for shard in shards if shard in merged][
        -1:
    ]
    plans = [layout.plan_file(shard) for shard in latest]
    moments = [each for plan in plans for each in lake.read_table(plan, ["planned_at"])["planned_at"].to_pylist()]
    return max(moments, default=None)


def late_arrivals(
    alerts: Alerts, arrived: Mapping[str, datetime | None], since: Mapping[str, datetime], now: datetime
) -> Iterator[Condition]:
    """Datasets in which nothing new came for too long.

    Args:
        arrived: by dataset, when its newest items were planned.
        since: from when on a dataset is watched; what never had items is late that long after it.
    """
    for dataset, expected in alerts.arrivals.items():
        last = arrived.get(dataset)
        hours = (now - (last or since.get(dataset, now))) / timedelta(hours=1)
        if hours > expected.within_hours:
            what = f"since {last:%Y-%m-%d %H:%M} UTC" if last else "since it is watched"
            yield Condition(
                "alert.arrivals",
                f"{dataset}: nothing new {what}; expected every {expected.within_hours:g} hours",
                dataset,
                value=round(hours, 2),
                limit=expected.within_hours,
            )


def too_many_failures(alerts: Alerts, totals: Sequence[Total]) -> Iterator[Condition]:
    """Stages of datasets with more failures than allowed."""
    if alerts.failure_share is None:
        return
    for each in totals:
        outcomes = each.done + each.failed
        if outcomes >= alerts.min_pictures and each.failed > alerts.failure_share * outcomes:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in each.failure_kinds.items())
            yield Condition(
                "alert.failures",
                f"{each.dataset}, {each.perspective}: {each.failed} of {outcomes} pictures failed ({kinds})",
                each.dataset,
                each.perspective,
                round(each.failed / outcomes, 4),
                alerts.failure_share,
            )


def tripped_breakers(alerts: Alerts, lake: Lake) -> Iterator[Condition]:
    """Datasets with shards on which a run stopped early, and that no run has finished since."""
    if not alerts.breaker:
        return
    told: dict[str, str] = {}
    for beat in read_beats(lake):
        if beat.state == "failed" and beat.error_type == _BREAKER:
            told |= {Shard.parse(key).dataset: f"run {beat.run_id} {beat.error}" for key in beat.shards}
    for dataset, error in sorted(told.items()):
        yield Condition("alert.breaker", f"{dataset}: {error}", dataset)


def old_queue(alerts: Alerts, known: KnownRuns, now: datetime) -> Iterator[Condition]:
    """A run that waits for too long."""
    if alerts.queue_minutes is None or known.oldest_queued is None:
        return
    minutes = (now.timestamp() - known.oldest_queued) / 60
    if minutes > alerts.queue_minutes:
        since = datetime.fromtimestamp(known.oldest_queued, UTC)
        waiting = "a run waits" if known.queued == 1 else f"{known.queued} runs wait, the oldest"
        nobody = "" if known.workers_alive else ", and no worker is alive"
        yield Condition(
            "alert.queue",
            f"{waiting} since {since:%Y-%m-%d %H:%M} UTC{nobody}",
            value=round(minutes, 1),
            limit=alerts.queue_minutes,
        )


def totals_of(config: PipelineConfig, seconds: float = inf) -> list[Total]:
    """What `too_many_failures` looks at. Raises StillCounting when it takes longer than that."""
    return read_status(config, seconds=seconds).totals


def lake_marker(lake: Lake) -> str:
    """Changes when a run has finished a shard, something was deleted, or another form of a perspective is current."""
    days = lake.list(layout.RUNS)[-_DAYS_OF_RUNS:]
    names = [[day, *lake.list(f"{layout.RUNS}/{day}")] for day in days]
    current = lake.read(layout.CURRENT).decode() if lake.exists(layout.CURRENT) else ""
    seen = [names, lake.list(layout.TOMBSTONES), current]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
