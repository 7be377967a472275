"""Sends messages, and says of each whether the cluster has it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caption_assets.kafka.client import Cluster

if TYPE_CHECKING:
    from confluent_kafka import KafkaError


@dataclass(frozen=True)
class Outgoing:
    """A message on its way."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """Whether a message is delivered (no `problem`), and whether it ever can be."""

    problem: str | None = None
    hopeless: bool = False
    """The cluster will never take this message: it is too long."""
    topic_refused: bool = False
    """There is no such topic, or it is not ours to write to."""


class Sender:
    """A producer of a cluster.

    Args:
        cluster: where to.

    Raises:
        ImportError: the extra `kafka` is not installed.
        KafkaAway: the cluster does not answer.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._producer = cluster.producer()
        cluster.topics(self._producer)

    def send(self, messages: Sequence[Outgoing], seconds: float) -> list[Outcome]:
        """Send messages in order; returns how each one ended.

        What has no answer after so many seconds counts as not delivered, though it may be.
        """
        outcomes: list[Outcome] = [Outcome("no answer in time")] * len(messages)
        deadline = time.monotonic() + seconds
        for number, message in enumerate(messages):
            if problem := self._enqueue(message, number, outcomes, deadline):
                outcomes[number:] = [Outcome(problem)] * (len(messages) - number)
                break
        if self._producer.flush(max(deadline - time.monotonic(), 0.1)):
            self._producer.purge()
            self._producer.flush(1.0)
        return outcomes

    def _enqueue(self, message: Outgoing, number: int, outcomes: list[Outcome], deadline: float) -> str | None:
        """Hand a message to librdkafka, waiting for room; returns what keeps it from taking any."""
        from confluent_kafka import KafkaException

        def delivered(error: KafkaError | None, _: object) -> None:
            outcomes[number] = _outcome(error)

        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    on_delivery=delivered,
                    headers=dict(message.headers) if message.headers else None,
                )
            except BufferError:
                if time.monotonic() > deadline:
                    return "no answer in time"
                self._producer.poll(0.1)
            except KafkaException as error:
                outcomes[number] = _outcome(error.args[0])
                return None
            else:
                self._producer.poll(0)
                return None


def _outcome(error: KafkaError | None) -> Outcome:
    from confluent_kafka import KafkaError

    if error is None:
        return Outcome()
    too_long = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
    refused = {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
    return Outcome(error.str(), error.code() in too_long, error.code() in refused)
