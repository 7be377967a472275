"""Events that are found only where somebody asks for them: perspectives that changed, and numbers at intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from caption_assets.config import PipelineConfig
from caption_assets.config.callbacks import ON_REQUEST, EventType
from caption_assets.config.kafka import Topic
from caption_assets.events.event import Event, timestamp
from caption_assets.events.looked import Looked
from caption_assets.lake import layout
from caption_assets.lake.current import read_current
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards

_TOPICS: dict[Topic, frozenset[EventType]] = {
    "jobs.created": frozenset({"job.created"}),
    "jobs.status": frozenset({"job.created", "job.started"}),
    "perspectives.updated": frozenset({"perspective.updated"}),
    "system.metrics": frozenset({"system.metrics"}),
}
_TOTALS = (
    "pictures", "picture_failures", "captions", "reused", "caption_failures", "prompt_tokens", "completion_tokens",
    "seconds", "cost",
)  # fmt: skip
_METRICS_SECONDS = 300.0


def asked_for(config: PipelineConfig) -> frozenset[EventType]:
    """The events in `ON_REQUEST` that a callback or a topic wants."""
    topics = config.kafka.topics if config.kafka else []
    named = {event for callback in config.callbacks for event in callback.events}
    return ON_REQUEST & named.union(*(_TOPICS.get(topic, frozenset()) for topic in topics))


def find_news(
    config: PipelineConfig, lake: Lake, looked: Looked, number: int, now: datetime
) -> tuple[list[Event], Looked]:
    """What is new, and what has been looked at then. `number`: that of the outbox's last file."""
    asked, events = asked_for(config), list[Event]()
    if "perspective.updated" in asked:
        current = read_current(lake)
        changed = {name: each for name, each in current.items() if looked.perspectives.get(name) != each}
        events += [_updated(name, each, looked, number, now) for name, each in sorted(changed.items())]
        looked = replace(looked, perspectives=current) if changed else looked
    interval = config.kafka.metrics_seconds if config.kafka else _METRICS_SECONDS
    if "system.metrics" in asked and (
        looked.metrics_since is None or now - looked.metrics_since >= timedelta(seconds=interval)
    ):
        events.append(_metrics(config, lake, looked, now))
        looked = replace(looked, metrics_since=now, totals={})
    return events, looked


def totals_with(totals: Mapping[str, float], events: Iterable[Event]) -> dict[str, float]:
    """Totals, and what events of shards add to them."""
    sums = dict(totals)
    for event in events:
        for name, number in _numbers(event):
            sums[name] = sums.get(name, 0) + (number or 0)
    return sums


def _numbers(event: Event) -> list[tuple[str, float | None]]:
    data: Mapping[str, Any] = event.data
    if event.type == "shard.media":
        return [("pictures", data["done"]), ("picture_failures", data["failed"]), ("seconds", data["seconds"])]
    if event.type != "shard.captions":
        return []
    names = {"done": "captions", "failed": "caption_failures"}
    fields = ("done", "failed", "reused", "prompt_tokens", "completion_tokens", "seconds", "cost")
    return [(names.get(field, field), each[field]) for each in data["perspectives"] for field in fields]


def _updated(name: str, fingerprint: str, looked: Looked, number: int, now: datetime) -> Event:
    previous = looked.perspectives.get(name)
    identity = [name, fingerprint, looked.outbox, str(number)]  # one may come back
    data = {"perspective": name, "fingerprint": fingerprint, "previous": previous}
    return Event.of("perspective.updated", identity, now, [], data)


def _metrics(config: PipelineConfig, lake: Lake, looked: Looked, now: datetime) -> Event:
    since = looked.metrics_since or looked.since
    datasets = []
    for name in sorted(config.datasets):
        stored = set(lake.list(layout.media_folder(name)))
        keys = [shard.key for shard in planned_shards(lake, name)]
        done = sum(f"{key}.parquet" in stored for key in keys)
        datasets.append({"dataset": name, "shards": len(keys), "shards_with_media": done})
    totals = {name: looked.totals.get(name, 0) for name in _TOTALS}
    data = {"since": timestamp(since), "totals": totals, "datasets": datasets}
    return Event.of("system.metrics", [looked.outbox, timestamp(now)], now, [], data)
