"""Messages that follow from an event alone: of jobs, of what they did to shards, of perspectives, logs and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caption_assets.config.kafka import Kafka, Topic
from caption_assets.events.channels import topic_channel
from caption_assets.events.event import Event
from caption_assets.kafka.envelope import Envelope
from caption_assets.lake.layout import Shard

_STATUS = {
    "job.created": "created",
    "job.started": "started",
    "job.succeeded": "succeeded",
    "job.failed": "failed",
    "job.cancelled": "cancelled",
}


@dataclass(frozen=True)
class Message:
    """What is to be told, where, and by which channel."""

    channel: str
    topic: str
    envelope: Envelope

    @classmethod
    def on(cls, kafka: Kafka, topic: Topic, envelope: Envelope) -> Message:
        """A message on a topic of the section `kafka`."""
        return cls(topic_channel(topic), kafka.topic(topic), envelope)


def event_messages(kafka: Kafka, event: Event) -> list[Message]:
    """What an event says by itself, to the topics that are published."""
    found = _messages(kafka, event)
    return [Message.on(kafka, topic, each) for topic, each in found if topic in kafka.topics]


def _messages(kafka: Kafka, event: Event) -> Iterator[tuple[Topic, Envelope]]:
    data: Mapping[str, Any] = event.data
    if event.type in _STATUS:
        job = {**data, "status": _STATUS[event.type], "datasets": list(event.datasets)}
        topics: list[Topic] = ["jobs.created", "jobs.status"] if event.type == "job.created" else ["jobs.status"]
        for topic in topics:
            yield topic, _envelope(topic, event, data["run_id"], job)
        if event.type == "job.failed":
            what = f"{data['job']} failed: {data['error'] or 'it does not say why'}"
            yield _log(event, data["run_id"], "error", what, {name: data[name] for name in ("run_id", "job")})
    elif event.type == "shard.media":
        yield from _items(event, {**data, "step": "media", "perspective": None, "fingerprint": None, "reused": 0})
    elif event.type == "shard.captions":
        for each in data["perspectives"]:
            common = {"run_id": data["run_id"], "shard": data["shard"], "step": "captions"}
            yield from _items(event, {**each, **common})
    elif event.type == "perspective.updated":
        yield "perspectives.updated", _envelope("perspectives.updated", event, data["perspective"], data)
    elif event.type.startswith("alert."):
        level = "warning" if data["state"] == "raised" else "info"
        yield _log(event, data["incident"], level, data["summary"], data)
    elif event.type == "system.metrics":
        yield "system.metrics", _envelope("system.metrics", event, kafka.producer, data)


def _items(event: Event, item: Mapping[str, Any]) -> Iterator[tuple[Topic, Envelope]]:
    """A shard in a run: completed where something was done or nothing failed, failed where something failed."""
    data = {**item, "dataset": Shard.parse(item["shard"]).dataset}
    if item["done"] or item["reused"] or not item["failed"]:
        yield "job_items.completed", _envelope("job_items.completed", event, item["run_id"], data, item["perspective"])
    if item["failed"]:
        yield "job_items.failed", _envelope("job_items.failed", event, item["run_id"], data, item["perspective"])


def _log(event: Event, key: str, level: str, message: str, details: Mapping[str, Any]) -> tuple[Topic, Envelope]:
    """What somebody may have to act on, and that it is over."""
    about = {"level": level, "event": event.type, "message": message, "datasets": list(event.datasets)}
    return "system.logs", _envelope("system.logs", event, key, {**about, "details": details})


def _envelope(topic: Topic, event: Event, key: str, data: Mapping[str, Any], part: str | None = None) -> Envelope:
    return Envelope.of(topic, [event.id, part], event.occurred_at, key, data)
