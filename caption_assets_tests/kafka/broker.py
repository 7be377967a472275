"""A Kafka cluster for tests: librdkafka's mock cluster, which speaks the real protocol to any client on this machine.

The Python package does not offer its controls, so they are called in the library that the package brings along.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition

UNKNOWN_TOPIC = 3
_BROKER = 1


@cache
def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (file,) = folder.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(file))
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in [
        ("conf_new", handle, []),
        ("new", handle, [number, handle, text, ctypes.c_size_t]),
        ("destroy", None, [handle]),
        ("mock_cluster_new", handle, [handle, number]),
        ("mock_cluster_destroy", None, [handle]),
        ("mock_cluster_bootstraps", text, [handle]),
        ("mock_topic_create", number, [handle, text, number, number]),
        ("mock_topic_set_error", None, [handle, text, number]),
        ("mock_broker_set_down", number, [handle, ctypes.c_int32]),
        ("mock_broker_set_up", number, [handle, ctypes.c_int32]),
    ]:
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


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


class Broker:
    """A cluster of one broker."""

    def __init__(self, cluster: int, address: str) -> None:
        self._cluster, self.address = cluster, address

    def create(self, *topics: str, partitions: int = 2) -> None:
        """Make topics. Whoever writes to one that is not there makes it, too."""
        for topic in topics:
            assert not _library().rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)

    def refuse(self, topic: str, error: int = UNKNOWN_TOPIC) -> None:
        """Answer with an error whoever asks for a topic; 0: no longer."""
        _library().rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def go_down(self) -> None:
        """Close all connections, and accept none."""
        assert not _library().rd_kafka_mock_broker_set_down(self._cluster, _BROKER)

    def come_up(self) -> None:
        """Accept connections again; messages and offsets are still there."""
        assert not _library().rd_kafka_mock_broker_set_up(self._cluster, _BROKER)

    def send(self, topic: str, *values: object, key: str | None = None, partition: int = 0, at: int = 0) -> None:
        """Write messages: bytes as they are, else as JSON; `at`: their time, in milliseconds."""
        producer = Producer({"bootstrap.servers": self.address})
        for value in values:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(topic, body, key, partition=partition, timestamp=at)
        assert producer.flush(20) == 0

    def received(self, topic: str) -> list[Received]:
        """All messages of a topic, by partition and offset; none where there is no such topic."""
        options = {"bootstrap.servers": self.address, "group.id": "test", "enable.partition.eof": True}
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
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group})
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


@contextmanager
def running() -> Iterator[Broker]:
    """A cluster on a free port."""
    library, problem = _library(), ctypes.create_string_buffer(512)
    client = library.rd_kafka_new(0, library.rd_kafka_conf_new(), problem, len(problem))
    assert client, problem.value
    cluster = library.rd_kafka_mock_cluster_new(client, 1)
    try:
        yield Broker(cluster, library.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)
