"""A cluster over librdkafka: the settings of its clients, and what is said when it does not answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption_assets.config import ConfigError
from caption_assets.config.kafka import KafkaConnection, KafkaSecurity

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaException, Producer
    from confluent_kafka.admin import TopicMetadata

ANSWER_SECONDS = 5.0
"""How long a cluster may take to answer a question."""

_FAILED = re.compile(r"^FAIL .*?/(?:bootstrap|\d+): (.*?)(?: \(after [^()]*\))?$", re.DOTALL)
"""A line of librdkafka's log: which client and broker, why a connection failed, and after how long."""


class KafkaAway(OSError):
    """A cluster, or a topic of it, cannot be used now; the message says which, and what to do."""


class _Heard(logging.Handler):
    """Keeps the last reason for which a connection failed; librdkafka logs each attempt, and raises without reasons."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        if found := _FAILED.match(record.getMessage()):
            self.reason = found[1]


class Cluster:
    """A cluster as the pipeline file names it.

    Args:
        connection: the cluster.
        field: where the pipeline file names it.
        base: the folder that paths are relative to.

    Raises:
        ConfigError: an environment variable is not set, or a file is not there; names field and variable or file.
    """

    def __init__(self, connection: KafkaConnection, field: str, base: Path) -> None:
        self._field, self._brokers = field, ",".join(connection.brokers)
        self._heard, self._log = _Heard(), logging.Logger("kafka")
        self._log.addHandler(self._heard)
        self.settings: Mapping[str, Any] = {
            "bootstrap.servers": self._brokers,
            "client.id": "caption-assets",
            "socket.timeout.ms": 10_000,
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.ms": 200,
            "reconnect.backoff.max.ms": 2_000,
            **_security(connection.security, f"{field}.security", base),
        }
        """librdkafka's, of any client."""

    def producer(self) -> Producer:
        """A producer whose messages are on all replicas, in order and once each, before they count as delivered.

        Raises:
            ImportError: the extra `kafka` is not installed.
            KafkaAway: the settings cannot be used.
        """
        options = {
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "zstd",
            "message.timeout.ms": 10_000,
            "topic.metadata.propagation.max.ms": 3_000,
            "queue.buffering.max.kbytes": 65_536,
        }
        producer: Producer = self._client(require().Producer, options)
        return producer

    @contextmanager
    def consumer(self, group: str) -> Iterator[Consumer]:
        """A consumer that commits only what it is told to.

        Raises:
            ImportError: the extra `kafka` is not installed.
            KafkaAway: the settings cannot be used.
        """
        options = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
            "fetch.message.max.bytes": 2 << 20,
        }
        consumer: Consumer = self._client(require().Consumer, options)
        try:
            yield consumer
        finally:
            consumer.close()

    def topics(self, client: Producer | Consumer, only: str | None = None) -> Mapping[str, TopicMetadata]:
        """The topics that are there, or what there is to say of one. Raises KafkaAway where no broker answers."""
        with self.asking(client, f"no broker of {self._brokers} answers"):
            return client.list_topics(*([only] if only else []), timeout=ANSWER_SECONDS).topics

    @contextmanager
    def asking(self, client: Producer | Consumer, what: str) -> Iterator[None]:
        """Raise what librdkafka raises as KafkaAway, which says `what`, and why, or which field is at fault."""
        from confluent_kafka import KafkaError, KafkaException

        try:
            yield
        except KafkaException as error:
            client.poll(0)  # that is when it logs
            silent = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}
            reason = self._heard.reason if error.args[0].code() in silent else ""
            raise KafkaAway(self._fault(reason) or f"{what}: {reason or _text(error)}") from None

    def _fault(self, reason: str) -> str | None:
        """What is wrong in the pipeline file, where that is why a connection failed."""
        security = f"{self._field}.security"
        if "certificate verify failed" in reason:
            return f"{security}.ca: the certificate of {self._brokers} cannot be verified; name who signed it"
        if reason.startswith("SASL "):
            return f"{security}: {self._brokers} refuses mechanism, username or password: {reason}"
        if reason.startswith("Disconnected"):
            maybe = "another protocol, or a certificate of ours, may be wanted"
            return f"no broker of {self._brokers} answers: {reason}; see {security}: {maybe}"
        return None

    def _client(self, kind: Any, options: Mapping[str, Any]) -> Any:
        from confluent_kafka import KafkaException

        try:
            return kind({**self.settings, **options}, logger=self._log)
        except KafkaException as error:
            raise KafkaAway(f"{self._field}: librdkafka cannot use the settings: {_text(error)}") from None


def absent_topics(cluster: Cluster, topics: Sequence[str]) -> list[str]:
    """Which of these topics a cluster does not have. Raises ImportError, KafkaAway."""
    there = cluster.topics(cluster.producer())
    return [topic for topic in topics if topic not in there or there[topic].error is not None]


def require() -> Any:
    """The package of librdkafka. Raises ImportError, with the remedy."""
    try:
        import confluent_kafka
    except ImportError:
        raise ImportError("Kafka needs confluent-kafka: pip install 'caption-assets[kafka]'") from None
    return confluent_kafka


def _security(security: KafkaSecurity, field: str, base: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"security.protocol": security.protocol}
    if security.mechanism and security.username and security.password:
        found["sasl.mechanism"] = security.mechanism
        found["sasl.username"] = security.username.read(f"{field}.username")
        found["sasl.password"] = security.password.read(f"{field}.password")
    for name, path in {"ca": security.ca, "certificate": security.certificate, "key": security.key}.items():
        if path and not (file := base / path.expanduser()).is_file():
            raise ConfigError(f"{field}.{name}: there is no file {file}")
        if path:
            found[f"ssl.{name}.location"] = str(file)
    if security.key_password:
        found["ssl.key.password"] = security.key_password.read(f"{field}.key_password")
    return found


def _text(error: KafkaException) -> str:
    reason = error.args[0]
    return str(reason.str() if hasattr(reason, "str") else reason)
