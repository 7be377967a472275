"""Pictures that the messages of a Kafka topic name.

Offsets are committed for the group once the plan that holds their items is in the lake, and never before: a process
that dies between the two reads them again, and the planner knows the items. Partitions are read without joining the
group, so that two readers disturb each other as little as two planners do: both plan, one wins, and a commit that goes
back only means that known messages are read once more.

A message that cannot be understood becomes an item that can only fail, so that it is counted, and goes to the topic of
dead letters, if there is one. A request that cannot be met is answered at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from caption_assets.config.kafka import KafkaDataset, is_topic
from caption_assets.kafka.client import ANSWER_SECONDS, Cluster, KafkaAway, require
from caption_assets.kafka.envelope import REQUEST, Envelope, PoisonError, read
from caption_assets.kafka.sender import Outgoing, Sender
from caption_assets.lake import tables
from caption_assets.sources.base import Item
from caption_assets.sources.named import FromNamed, NamedPictures
from caption_assets.sources.rows import digest, unusable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

COLUMN = "kafka"
"""The source column that says which message an item is from, and which request it is."""

_AT_ONCE = 500
_TICK_MESSAGES = 20_000
_TICK_SECONDS = 20.0
_SILENCE_SECONDS = 10.0
_ANSWERS_BYTES = 32_000_000
_SEND_SECONDS = 10.0


@dataclass(frozen=True)
class Answering:
    """What a source needs to answer requests.

    `perspectives`: those that may be asked for. `failures`: the topic of refusals whose request names no other one;
    none: nobody is told. `producer`: who answers.
    """

    perspectives: frozenset[str]
    failures: str | None = None
    producer: str = "caption-assets"


@dataclass
class _Scan:
    """What one scan has read."""

    starts: dict[int, int]
    """By partition, the first offset that it could read."""
    ends: dict[int, int]
    """By partition, the offset before which it has read all."""
    answers: list[tuple[int, int, Outgoing]] = field(default_factory=list)
    """Refusals and dead letters: partition and offset of the message, and what is to be sent."""
    poison: list[str] = field(default_factory=list)
    answers_bytes: int = 0
    anew: set[int] = field(default_factory=set)
    """Partitions whose committed offset is of another topic of this name."""
    notes: list[str] = field(default_factory=list)


class KafkaSource(FromNamed):
    """The pictures named by a topic's messages that are not committed yet.

    Args:
        name: the dataset's.
        dataset: its section.
        cluster: where the topic is.
        pictures: where pictures may be.
        answering: how requests are answered.
        settle: hold back what is not enough for a shard until it is old enough, and read as long as a tick may take.

    Raises:
        ImportError: the extra `kafka` is not installed.
    """

    def __init__(
        self,
        name: str,
        dataset: KafkaDataset,
        cluster: Cluster,
        pictures: NamedPictures,
        answering: Answering,
        *,
        settle: bool,
    ) -> None:
        require()
        self._name, self._dataset, self._cluster = name, dataset, cluster
        self._pictures, self._answering, self._settle = pictures, answering, settle
        self._scan = _Scan({}, {})

    def scan(self) -> Iterator[Item]:
        """The items of the messages that are not committed, by partition and offset.

        Raises:
            KafkaAway: no broker answers, or there is no such topic.
        """
        with self._cluster.consumer(self._dataset.group) as consumer:
            scan = self._scan = self._positions(consumer)
            yield from self._read(consumer, scan)

    def closes(self, items: Sequence[Item]) -> bool:
        """Whether these, too few for a whole shard, are to be one now: the oldest has waited for long enough."""
        if not self._settle:
            return True
        waited = timedelta(seconds=self._dataset.max_wait_seconds)
        now = tables.now()
        times = [item.modified for item in items]
        # a time in the future is a clock that nobody can wait for
        return any(when is None or not timedelta() <= now - when < waited for when in times)

    def planned(self, held: Sequence[Item]) -> list[str]:
        """Commit what was read, but for what is held back, once refusals and dead letters are out."""
        scan, ends = self._scan, dict(self._scan.ends)
        for item in held:
            place = item.source[COLUMN]
            ends[place["partition"]] = min(ends[place["partition"]], place["offset"])
        ends = {partition: end for partition, end in ends.items() if end > scan.starts[partition]}
        notes = list(scan.notes)
        if scan.poison:
            shown = "; ".join(scan.poison[:3]) + ("; …" if len(scan.poison) > 3 else "")
            notes.append(f"{len(scan.poison)} messages cannot be understood: {shown}")
        due = [answer for partition, offset, answer in scan.answers if offset < ends.get(partition, 0)]
        try:
            if due and (problem := self._answer(due, notes)):
                return [*notes, f"nothing is committed, for answers cannot be sent: {problem}"]
            if ends:
                self._commit(ends)
        except KafkaAway as error:
            notes.append(f"nothing is committed, so the same messages are read again: {error}")
        return notes

    def _positions(self, consumer: Consumer) -> _Scan:
        """Where to read from, and to: up to what is there now. Raises KafkaAway."""
        from confluent_kafka import TopicPartition

        topic = self._dataset.topic
        found = self._cluster.topics(consumer, topic)[topic]
        if found.error is not None or not found.partitions:
            where = f"datasets.{self._name}.topic"
            raise KafkaAway(f"there is no topic {topic}; create it, or correct {where}")
        scan, assigned = _Scan({}, {}), list[TopicPartition]()
        with self._cluster.asking(consumer, f"the offsets of {topic} cannot be read"):
            committed = consumer.committed(
                [TopicPartition(topic, partition) for partition in sorted(found.partitions)], timeout=ANSWER_SECONDS
            )
            for each in committed:
                low, high = consumer.get_watermark_offsets(each, timeout=ANSWER_SECONDS)
                start = self._start(each, low, high, scan)
                scan.starts[each.partition] = scan.ends[each.partition] = start
                if start < high:
                    assigned.append(TopicPartition(topic, each.partition, start))
            consumer.assign(assigned)
        return scan

    def _start(self, committed: TopicPartition, low: int, high: int, scan: _Scan) -> int:
        offset, place = committed.offset, f"{committed.topic}/{committed.partition}"
        if committed.error is not None:
            raise KafkaAway(f"the offset of {place} cannot be read: {committed.error}")
        if offset < 0:
            return low
        if offset < low:
            scan.notes.append(f"{low - offset} messages of {place} were deleted before they were read")
        if offset > high:
            scan.notes.append(f"{place} was made anew: it is read from its beginning")
            scan.anew.add(committed.partition)
        return offset if low <= offset <= high else low

    def _read(self, consumer: Consumer, scan: _Scan) -> Iterator[Item]:
        from confluent_kafka import KafkaError

        open_ = {each.partition for each in consumer.assignment()}
        began = heard = time.monotonic()
        number = 0
        while open_ and scan.answers_bytes < _ANSWERS_BYTES:
            if self._settle and (number >= _TICK_MESSAGES or time.monotonic() - began > _TICK_SECONDS):
                scan.notes.append("there are more messages, for the next tick")
                return
            with self._cluster.asking(consumer, f"{self._dataset.topic} cannot be read"):
                messages = consumer.consume(_AT_ONCE, timeout=1.0)
            heard = time.monotonic() if messages else heard
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise KafkaAway(f"no broker gives the messages of {self._dataset.topic}")
            for message in messages:
                error, partition, offset = message.error(), message.partition(), message.offset()
                assert partition is not None
                if error is None and offset is not None:
                    number += 1
                    yield from self._items(message, partition, offset, scan)
                    scan.ends[partition] = offset + 1
                elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(partition)
                elif error is not None and not error.retriable():
                    raise KafkaAway(f"{self._dataset.topic} cannot be read: {error.str()}")

    def _items(self, message: Message, partition: int, offset: int, scan: _Scan) -> Iterator[Item]:
        value = message.value()
        value = value.encode() if isinstance(value, str) else value
        place = {"topic": self._dataset.topic, "partition": partition, "offset": offset}
        document: Mapping[str, Any] | None = None
        try:
            document = read(value, int(self._dataset.max_message_kb * 1024))
            request = self._request(document)
            item = self._item(document, place, request)
        except PoisonError as error:
            self._put_aside(message, value or b"", place, str(error), scan)
            uri = f"kafka://{self._dataset.topic}/{partition}/{offset}"
            item = replace(unusable(uri, digest(value or b""), str(error)), source={COLUMN: place})
        except _RefusedError as refused:
            assert document is not None
            self._refuse(document, refused, partition, offset, scan)
            return
        yield replace(item, modified=_moment(*message.timestamp()))

    def _item(self, document: Mapping[str, Any], place: Mapping[str, Any], request: Mapping[str, Any] | None) -> Item:
        """The item of a message. Raises PoisonError for a picture that is none of this dataset's."""
        data = document["data"]
        identity = data.get("etag") or {key: value for key, value in data.items() if key != "size"}
        if request:  # each request is an item of its own: it wants a reply of its own
            identity = [document["id"], data]
        columns = {**data.get("source", {}), COLUMN: {**place, **({"request": request} if request else {})}}
        name = "uri" if "uri" in data else "url"
        try:
            item = self._pictures.item(data[name], digest(_canonical(identity)), columns, pinned=False)
        except ValueError as error:
            raise PoisonError(f"data.{name} {error}") from None
        return replace(item, size=item.size or data.get("size", 0))

    def _request(self, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an item remembers of its request; None for an upload. Raises _RefusedError."""
        if document["type"] != REQUEST:
            return None
        data = document["data"]
        reply_topic = data.get("reply_topic")
        if reply_topic and not (
            is_topic(reply_topic) and any(fnmatchcase(reply_topic, glob) for glob in self._dataset.reply_topics)
        ):
            raise _RefusedError("reply_topic", f"replies may not go to {reply_topic!r}", None)
        asked = data.get("perspectives")
        if unknown := sorted(set(asked or []) - self._answering.perspectives):
            raise _RefusedError("unknown_perspective", f"there is no perspective {unknown[0]!r} enabled", reply_topic)
        return {
            "id": document["id"],
            "correlation_id": data.get("correlation_id"),
            "perspectives": asked,
            "reply_topic": reply_topic,
        }

    def _refuse(
        self, document: Mapping[str, Any], refused: _RefusedError, partition: int, offset: int, scan: _Scan
    ) -> None:
        topic, data = refused.reply_topic or self._answering.failures, document["data"]
        scan.notes.append(f"request {document['id']!r} is refused: {refused}" + ("" if topic else "; nobody is told"))
        if topic is None:
            return
        request = {"id": document["id"], "correlation_id": data.get("correlation_id")}
        uri = data.get("uri") or data.get("url")
        failure = {
            **dict.fromkeys(("shard", "media_id", "perspective", "fingerprint", "run_id")),
            "stage": "request",
            "dataset": self._name,
            "uri": uri,
            "kind": refused.kind,
            "message": str(refused),
            "attempts": 0,
            "retryable": False,
            "request": request,
        }
        identity = [self._name, document["id"], refused.kind]
        envelope = Envelope.of("captions.failed", identity, tables.now(), uri, failure)
        body = envelope.body(self._answering.producer)
        scan.answers.append((partition, offset, Outgoing(topic, uri.encode(), body)))
        scan.answers_bytes += len(body)

    def _put_aside(self, message: Message, value: bytes, place: Mapping[str, Any], reason: str, scan: _Scan) -> None:
        scan.poison.append(f"{place['partition']}/{place['offset']}: {reason}")
        if topic := self._dataset.dead_letters:
            key = message.key() or b""
            headers = {"reason": reason, **{name: str(each) for name, each in place.items()}}
            letter = Outgoing(topic, key.encode() if isinstance(key, str) else key, value, headers)
            scan.answers.append((place["partition"], place["offset"], letter))
            scan.answers_bytes += len(value)

    def _answer(self, answers: Sequence[Outgoing], notes: list[str]) -> str | None:
        """Send refusals and dead letters; returns what keeps one from being sent that could be sent later."""
        outcomes = Sender(self._cluster).send(answers, _SEND_SECONDS)
        for answer, outcome in zip(answers, outcomes, strict=True):
            if outcome.problem and (outcome.hopeless or outcome.topic_refused):
                notes.append(f"{answer.topic} does not take an answer: {outcome.problem}")
            elif outcome.problem:
                return outcome.problem
        return None

    def _commit(self, ends: Mapping[int, int]) -> None:
        """Move the group's offsets on, nowhere back. Raises KafkaAway."""
        from confluent_kafka import TopicPartition

        wanted = [TopicPartition(self._dataset.topic, partition, end) for partition, end in sorted(ends.items())]
        with (
            self._cluster.consumer(self._dataset.group) as consumer,
            self._cluster.asking(consumer, f"the offsets of {self._dataset.topic} cannot be committed"),
        ):
            # a commit waits for its answer for as long as it takes: first see whether there is somebody to answer
            there = {each.partition: each.offset for each in consumer.committed(wanted, timeout=ANSWER_SECONDS)}
            further = [
                each for each in wanted if each.offset > there[each.partition] or each.partition in self._scan.anew
            ]
            done = (consumer.commit(offsets=further, asynchronous=False) if further else None) or []
        if failed := [each for each in done if each.error]:
            raise KafkaAway(f"{failed[0].topic}/{failed[0].partition} cannot be committed: {failed[0].error}")


class _RefusedError(Exception):
    """A request that cannot be met."""

    def __init__(self, kind: str, message: str, reply_topic: str | None) -> None:
        super().__init__(message)
        self.kind, self.reply_topic = kind, reply_topic


def _moment(kind: int, milliseconds: int) -> datetime | None:
    """The time of a message; None where it has none, or one that no calendar has."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if kind else None
    except (ValueError, OverflowError, OSError):
        return None


def _canonical(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
