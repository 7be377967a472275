"""Kafka in a pipeline file: the section `kafka` says what is published, and datasets of kind `kafka` what is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from caption_assets.config.datasets import AnyDataset, Place, Strict, Web
from caption_assets.config.secrets import EnvironmentSecret, by_reference

Topic = Literal[
    "media.processed",
    "captions.result",
    "captions.failed",
    "jobs.status",
    "jobs.created",
    "job_items.completed",
    "job_items.failed",
    "perspectives.updated",
    "system.logs",
    "system.metrics",
]
"""What is published."""

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def is_topic(value: str) -> bool:
    """Whether Kafka takes this as the name of a topic."""
    return bool(_TOPIC.fullmatch(value)) and value not in {".", ".."}


def check_topic(value: str) -> str:
    """Return `value` if Kafka takes it as the name of a topic. Raises ValueError."""
    if not is_topic(value):
        raise ValueError(f"{value!r} is no topic: use letters, digits, '.', '_' and '-', 249 at most")
    return value


TopicName = Annotated[str, AfterValidator(check_topic)]


def check_brokers(value: list[str]) -> list[str]:
    """Return `value` if each entry is host:port. Raises ValueError."""
    for number, broker in enumerate(value):
        match = _BROKER.fullmatch(broker)
        if not match or not 0 < int(match[2]) < 65536:  # it is not shown: it may hold a password
            raise ValueError(f"entry {number} is no broker; write host:port")
    return value


class KafkaSecurity(Strict):
    """How brokers and clients know each other."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: EnvironmentSecret | None = None
    password: EnvironmentSecret | None = None
    ca: Path | None = None
    """Certificates (PEM) of who signs the brokers'; default: the system's."""
    certificate: Path | None = None
    """Our own certificate (PEM), with its key."""
    key: Path | None = None
    key_password: EnvironmentSecret | None = None

    @field_validator("username", "password", "key_password", mode="before")
    @classmethod
    def _no_literal_key(cls, value: object) -> object:
        return by_reference(value)

    @model_validator(mode="after")
    def _fits(self) -> KafkaSecurity:
        sasl, ssl = self.protocol.startswith("sasl"), self.protocol.endswith("ssl")
        if sasl != bool(self.mechanism and self.username and self.password):
            needs = "needs mechanism, username and password" if sasl else "knows no mechanism; write sasl_ssl"
            raise ValueError(f"protocol {self.protocol} {needs}")
        if not ssl and (self.ca or self.certificate or self.key):
            raise ValueError(f"protocol {self.protocol} uses no certificates; write ssl or sasl_ssl")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together; name both, or none")
        return self


class KafkaConnection(Strict):
    """A cluster."""

    brokers: list[str] = Field(min_length=1)
    """host:port of some of its brokers; these tell of the others."""
    security: KafkaSecurity = KafkaSecurity()

    @field_validator("brokers")
    @classmethod
    def _brokers(cls, value: list[str]) -> list[str]:
        return check_brokers(value)


class Kafka(KafkaConnection):
    """What is published, and where."""

    topic_prefix: str = ""
    """Stands before each topic's name."""
    topics: list[Topic] = Field(default=list(get_args(Topic)))
    """Which are published; default: all."""
    producer: str = "caption-assets"
    """Tells consumers who published a message."""
    max_inline_kb: float = Field(default=64.0, ge=0, le=512)
    """A longer output is not sent, only where it is."""
    metrics_seconds: float = Field(default=300.0, ge=10)
    """How often `system.metrics` is published."""

    @field_validator("topic_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        return value and check_topic(value)

    def topic(self, name: Topic) -> str:
        """The name of a topic in the cluster."""
        return f"{self.topic_prefix}{name}"

    def connection(self) -> KafkaConnection:
        """The cluster alone."""
        return KafkaConnection(brokers=self.brokers, security=self.security)


class KafkaDataset(AnyDataset):
    """Pictures that the messages of a Kafka topic name: `media.uploaded` and `captions.request`."""

    kind: Literal["kafka"]
    topic: TopicName = "media.uploaded"
    group: str = Field(default="caption-assets", min_length=1, max_length=200)
    """The consumer group whose committed offsets say what is planned."""
    brokers: list[str] = Field(default=[])
    """host:port; none: those of the section `kafka`."""
    security: KafkaSecurity | None = None
    root: Place | None = None
    """The folder or URL that paths are relative to, and may not leave; none: only http and https URLs are pictures."""
    max_wait_seconds: float = Field(default=60.0, ge=0)
    """A message waits no longer than this for others to share its shard."""
    max_message_kb: float = Field(default=256.0, gt=0, le=1024)
    """A longer message is not read."""
    reply_topics: list[str] = Field(default=[])
    """Globs of the topics that a `captions.request` may name for its replies."""
    dead_letters: TopicName | None = None
    """The topic that gets what cannot be understood; none: it is counted among the failures, and no more."""
    web: Web = Web()
    options: dict[str, Any] = Field(default={})
    """Passed to the filesystem of `root`."""

    @field_validator("brokers")
    @classmethod
    def _brokers(cls, value: list[str]) -> list[str]:
        return check_brokers(value)

    @model_validator(mode="after")
    def _security_of_brokers(self) -> KafkaDataset:
        if self.security and not self.brokers:
            raise ValueError("security without brokers; name brokers here too, or leave both to the section kafka")
        return self


def check_kafka(kafka: Kafka | None, without_brokers: Sequence[str]) -> Kafka | None:
    """Return `kafka` if the datasets that name no brokers can do without. Raises ValueError."""
    if kafka is None and without_brokers:
        raise ValueError(f"is missing, and dataset {without_brokers[0]!r} names no brokers; add one of the two")
    return kafka
