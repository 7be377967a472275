"""Messages of pictures: all that the lake says now of a shard's pictures, and replies to those who asked for them.

The ids follow from what is said. So what Kafka lacks is what the lake says, less the ids that Kafka has: whoever wrote
a row, and whether he lived to tell, makes no difference.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.rows import read_form
from caption_assets.config import KafkaDataset, PipelineConfig
from caption_assets.config.kafka import Topic
from caption_assets.events.channels import replies_channel, topic_channel
from caption_assets.events.messages import Message
from caption_assets.kafka.envelope import Envelope
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.stored import Row, read_failures, read_index
from caption_assets.perspectives import from_arrow_value
from caption_assets.sources.base import Item
from caption_assets.sources.kafka import COLUMN
from caption_assets.sources.planner import read_plan

PICTURE_TOPICS: tuple[Topic, ...] = ("media.processed", "captions.result", "captions.failed")


@dataclass(frozen=True)
class Form:
    """A form of a perspective; `bound` where it is the one that the pipeline file wants."""

    perspective: str
    fingerprint: str
    bound: BoundPerspective | None = field(compare=False)


@dataclass(frozen=True)
class _Request:
    """An item that somebody wants captions of, and of which perspectives."""

    item: Item
    asked: Mapping[str, Any]
    perspectives: Collection[str]


class ShardPictures:
    """What the lake says of a shard's pictures now.

    Args:
        forms: those that are looked at.
        enabled: the perspectives of the pipeline file.
        wanted: the channels whose messages are needed.
    """

    def __init__(
        self,
        config: PipelineConfig,
        lake: Lake,
        shard: Shard,
        forms: Collection[Form],
        enabled: Collection[str],
        wanted: Collection[str],
    ) -> None:
        self._config, self._lake, self._shard, self._wanted = config, lake, shard, wanted
        self._kafka = config.kafka
        self._index = read_index(lake, shard)
        self._uris = {row["media_id"]: row["uri"] for row in reversed(self._index)}
        self._failures = read_failures(lake, "media", shard)
        self._enabled = enabled
        self._replies = list(self._requests())
        if self._replies or self._wants("captions.result") or self._wants("captions.failed"):
            self._rows = {form: read_form(lake, form.perspective, form.fingerprint, shard) for form in forms}
            self._failed = {
                form: [
                    row
                    for row in read_failures(lake, form.perspective, shard)
                    if row["fingerprint"] == form.fingerprint and row["media_id"] not in self._rows[form]
                ]
                for form in forms
            }
        else:
            self._rows, self._failed = {}, {}

    def messages(self) -> list[Message]:
        """All messages to the topics, oldest first: those that were told before, too."""
        found: list[Message] = []
        if self._wants("media.processed"):
            found += [self._on("media.processed", self._media(row)) for row in self._index]
        if self._wants("captions.failed"):
            found += [self._on("captions.failed", self._failure(row, None, None)) for row in self._failures]
        for form, rows in self._rows.items():
            if self._wants("captions.result"):
                found += [self._on("captions.result", self._result(form, row)) for row in rows.values()]
            if self._wants("captions.failed"):
                found += [
                    self._on("captions.failed", self._failure(row, form.perspective, form.fingerprint))
                    for row in self._failed[form]
                ]
        return sorted(found, key=lambda each: each.envelope.occurred_at)

    def replies(self) -> Iterator[tuple[Message | None, Message | None]]:
        """For each request and perspective, the result and the failure that answer it, if they are there."""
        media = {(row["uri"], row["etag"]): row["media_id"] for row in self._index}
        failures = {(row["uri"], row["etag"]): row for row in self._failures}
        failed = {form: {row["media_id"]: row for row in rows} for form, rows in self._failed.items()}
        for request in self._replies:
            media_id = media.get(request.item.key)
            for name in request.perspectives:
                forms = sorted(
                    (form for form in self._rows if form.perspective == name), key=lambda form: not form.bound
                )
                done = next((form for form in forms if media_id in self._rows[form]), None)
                vain = next((form for form in forms if media_id in failed[form]), None)
                result, failure = None, None
                if done and media_id:
                    result = self._result(done, self._rows[done][media_id], request)
                elif vain and media_id:
                    failure = self._failure(failed[vain][media_id], name, vain.fingerprint, request)
                elif media_id is None and request.item.key in failures:
                    failure = self._failure(failures[request.item.key], name, None, request)
                elif name not in self._enabled:
                    failure = self._gone(request, name)
                yield self._reply("captions.result", result, request), self._reply("captions.failed", failure, request)

    def _requests(self) -> Iterator[_Request]:
        if not isinstance(self._config.datasets.get(self._shard.dataset), KafkaDataset):
            return
        try:
            plan = read_plan(self._lake, self._shard)
        except FileNotFoundError:
            return
        for item in plan:
            if asked := item.source.get(COLUMN, {}).get("request"):
                yield _Request(item, asked, asked["perspectives"] or self._enabled)

    def _reply(self, topic: Topic, envelope: Envelope | None, request: _Request) -> Message | None:
        """The message of a reply; None where there is none, or nobody wants it."""
        if envelope is None:
            return None
        if to := request.asked["reply_topic"]:
            channel = replies_channel(self._shard.dataset)
            return Message(channel, to, envelope) if channel in self._wanted else None
        return self._on(topic, envelope) if self._wants(topic) else None

    def _wants(self, topic: Topic) -> bool:
        return topic_channel(topic) in self._wanted

    def _on(self, topic: Topic, envelope: Envelope) -> Message:
        assert self._kafka is not None, "it has the topic"
        return Message.on(self._kafka, topic, envelope)

    def _media(self, row: Row) -> Envelope:
        columns = ("uri", "etag", "width", "height", "format", "original_bytes", "run_id")
        data = {
            **self._about(row["media_id"]),
            **{name: row[name] for name in columns},
            "results": {"index": self._lake.url(layout.media_index(self._shard))},
        }
        identity = [self._shard.key, row["uri"], row["etag"], row["bytes_sha256"]]
        return Envelope.of("media.processed", identity, row["created_at"], row["media_id"], data)

    def _result(self, form: Form, row: Row, request: _Request | None = None) -> Envelope:
        columns = ("model", "finish_reason", "prompt_tokens", "completion_tokens", "reused_from", "run_id")
        folder = layout.captions_folder(form.perspective, form.fingerprint, self._shard)
        data = {
            **self._about(row["media_id"]),
            **{name: row[name] for name in columns},
            "uri": request.item.uri if request else self._uris.get(row["media_id"]),
            "perspective": form.perspective,
            "fingerprint": form.fingerprint,
            "output": self._inline(form, row["output"]),
            "results": {"rows": self._lake.url(folder)},
            "request": _told(request),
        }
        identity = [self._shard.key, form.perspective, form.fingerprint, row["media_id"], row["output_digest"]]
        if request:  # it is answered once, whatever becomes of the caption later
            identity = [self._shard.dataset, request.item.etag, form.perspective]
        return Envelope.of("captions.result", identity, row["created_at"], row["media_id"], data)

    def _failure(
        self, row: Row, perspective: str | None, fingerprint: str | None, request: _Request | None = None
    ) -> Envelope:
        about_media, media_id = row["stage"] == "media", row["media_id"]
        uri = row["uri"] or (request.item.uri if request else self._uris.get(media_id))
        data = {
            **self._about(media_id),
            "stage": "media" if about_media else "captions",
            "uri": uri,
            "perspective": perspective,
            "fingerprint": fingerprint,
            **{name: row[name] for name in ("kind", "message", "attempts", "retryable", "run_id")},
            "request": _told(request),
        }
        identity = [self._shard.key, row["stage"], row["fingerprint"], media_id, row["uri"], row["etag"], row["kind"]]
        if request:
            identity = [self._shard.dataset, request.item.etag, perspective]
        return Envelope.of("captions.failed", identity, row["created_at"], media_id or uri or self._shard.key, data)

    def _gone(self, request: _Request, perspective: str) -> Envelope:
        """A perspective was asked for that was enabled when the request came, and is no longer."""
        row: Row = {
            **dict.fromkeys(("media_id", "uri", "etag", "fingerprint", "run_id")),
            "stage": perspective,
            "kind": "unknown_perspective",
            "message": f"the perspective {perspective!r} is no longer enabled",
            "attempts": 0,
            "retryable": False,
            "created_at": tables.now(),
        }
        return self._failure(row, perspective, None, request)

    def _about(self, media_id: str | None) -> dict[str, Any]:
        return {"media_id": media_id, "dataset": self._shard.dataset, "shard": self._shard.key}

    def _inline(self, form: Form, output: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The output, if it is short enough to be sent."""
        value = from_arrow_value(form.bound.output, output) if form.bound else _without_nulls(output)
        limit = self._kafka.max_inline_kb if self._kafka else 64.0
        return value if len(json.dumps(value, ensure_ascii=False).encode()) <= limit * 1024 else None


def is_due(message: Message, since: datetime | None) -> bool:
    """Whether a message is of the time since somebody listens."""
    return since is None or message.envelope.occurred_at >= since


def _told(request: _Request | None) -> dict[str, Any] | None:
    return {name: request.asked[name] for name in ("id", "correlation_id")} if request else None


def _without_nulls(value: Any) -> Any:
    """An output of an earlier form, whose optional fields cannot be told from absent ones."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
