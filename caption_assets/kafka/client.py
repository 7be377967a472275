"""Clients of a cluster, over librdkafka: their settings, and what is said when it does not answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption_assets.config.kafka import KafkaConnection

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

ANSWER_SECONDS = 5.0
"""How long a cluster may take to answer a question."""

_SILENT = logging.Logger("kafka")  # librdkafka logs each attempt to connect; what matters is told by those who ask
_SILENT.addHandler(logging.NullHandler())


class KafkaAway(OSError):
    """A cluster, or a topic of it, cannot be used now; the message says which, and what to do."""


def settings(connection: KafkaConnection, field: str, base: Path) -> dict[str, Any]:
    """librdkafka's settings for a cluster.

    Args:
        connection: the cluster.
        field: where the pipeline file names it.
        base: the folder that paths are relative to.

    Raises:
        ConfigError: an environment variable is not set; names field and variable.
    """
    security = connection.security
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(connection.brokers),
        "client.id": "caption-assets",
        "security.protocol": security.protocol,
        "socket.timeout.ms": 10_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "reconnect.backoff.ms": 200,
        "reconnect.backoff.max.ms": 2_000,
    }
    if security.mechanism and security.username and security.password:
        found["sasl.mechanism"] = security.mechanism
        found["sasl.username"] = security.username.read(f"{field}.security.username")
        found["sasl.password"] = security.password.read(f"{field}.security.password")
    files = {"ca": security.ca, "certificate": security.certificate, "key": security.key}
    found |= {f"ssl.{name}.location": str(base / path.expanduser()) for name, path in files.items() if path}
    if security.key_password:
        found["ssl.key.password"] = security.key_password.read(f"{field}.security.key_password")
    return found


def open_producer(client: Mapping[str, Any]) -> Producer:
    """A producer whose messages are on all replicas, in order and once each, before they count as delivered.

    Raises:
        ImportError: the extra `kafka` is not installed.
        KafkaAway: the settings cannot be used.
    """
    producer_class = require().Producer
    options = {
        **client,
        "enable.idempotence": True,
        "linger.ms": 20,
        "compression.type": "zstd",
        "message.timeout.ms": 10_000,
        "topic.metadata.propagation.max.ms": 3_000,
        "queue.buffering.max.kbytes": 65_536,
    }
    with translated("the settings of kafka cannot be used"):
        producer: Producer = producer_class(options, logger=_SILENT)
        return producer


def absent_topics(client: Mapping[str, Any], topics: Sequence[str]) -> list[str]:
    """Which of these topics a cluster does not have. Raises ImportError, KafkaAway."""
    producer = open_producer(client)
    with translated(f"no broker of {client['bootstrap.servers']} answers"):
        there = producer.list_topics(timeout=ANSWER_SECONDS).topics
    return [topic for topic in topics if topic not in there or there[topic].error is not None]


@contextmanager
def open_consumer(client: Mapping[str, Any], group: str) -> Iterator[Consumer]:
    """A consumer that commits only what it is told to.

    Raises:
        ImportError: the extra `kafka` is not installed.
        KafkaAway: the settings cannot be used.
    """
    consumer_class = require().Consumer
    options = {
        **client,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 16_384,
        "fetch.message.max.bytes": 2 << 20,
    }
    with translated("the settings of kafka cannot be used"):
        consumer = consumer_class(options, logger=_SILENT)
    try:
        yield consumer
    finally:
        consumer.close()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what librdkafka raises as KafkaAway."""
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        reason = error.args[0]
        raise KafkaAway(f"{what}: {reason.str() if hasattr(reason, 'str') else reason}") from None


def require() -> Any:
    """The package of librdkafka. Raises ImportError, with the remedy."""
    try:
        import confluent_kafka
    except ImportError:
        raise ImportError("Kafka needs confluent-kafka: pip install 'caption-assets[kafka]'") from None
    return confluent_kafka
