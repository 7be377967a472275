"""What tests do with the topics of a cluster, whichever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition


@dataclass(frozen=True)
class Received:
    """A message of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: dict[str, str]

    @property
    def envelope(self) -> Any:
        """The value, as JSON."""
        return json.loads(self.value)

    @property
    def data(self) -> Any:
        """What the envelope holds."""
        return self.envelope["data"]


class Topics:
    """Writes to topics of a cluster and reads them. `options`: librdkafka's, besides the address."""

    def __init__(self, address: str, **options: str) -> None:
        self.address, self._options = address, {"bootstrap.servers": address, **options}

    def send(self, topic: str, *values: object, key: str | None = None, partition: int = 0, at: int = 0) -> None:
        """Write messages: bytes as they are, else as JSON; `at`: their time, in milliseconds."""
        producer = Producer(self._options)
        for value in values:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(topic, body, key, partition=partition, timestamp=at)
        assert producer.flush(20) == 0

    def received(self, topic: str) -> list[Received]:
        """All messages of a topic, by partition and offset; none where there is no such topic."""
        options = {**self._options, "group.id": "test", "enable.partition.eof": True}
        consumer = Consumer({**options, "enable.auto.commit": False})
        try:
            there = consumer.list_topics(timeout=20).topics.get(topic)
            if there is None:
                return []
            places = [TopicPartition(topic, partition, 0) for partition in there.partitions]
            ends = {each.partition: consumer.get_watermark_offsets(each, timeout=20)[1] for each in places}
            consumer.assign([each for each in places if ends[each.partition]])
            return sorted(_read(consumer, sum(ends.values())), key=lambda each: (each.partition, each.offset))
        finally:
            consumer.close()

    def committed(self, topic: str, group: str = "caption-assets", partitions: Sequence[int] = (0, 1)) -> list[int]:
        """A group's offsets, by partition; below 0: none."""
        consumer = Consumer({**self._options, "group.id": group})
        try:
            asked = [TopicPartition(topic, partition) for partition in partitions]
            return [each.offset for each in consumer.committed(asked, timeout=20)]
        finally:
            consumer.close()


def _read(consumer: Consumer, count: int) -> Iterator[Received]:
    while count:
        for message in consumer.consume(1000, timeout=0.2):
            if message.error() is not None:
                continue
            count -= 1
            headers = {str(each[0]): _text(each[1]) for each in message.headers() or []}
            partition, offset, value = message.partition(), message.offset(), message.value()
            assert partition is not None
            assert offset is not None
            assert isinstance(value, bytes)
            key = message.key()
            yield Received(partition, offset, key.encode() if isinstance(key, str) else key, value, headers)


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
