"""Channels: what of the outbox goes to Kafka, each at its own pace. A topic is one, the replies of a dataset are one.

A channel's place in the outbox stands in the lake like that of a receiver of callbacks, so a topic that is missing
holds back nothing but itself.
"""

from __future__ import annotations

from caption_assets.config import KafkaDataset, PipelineConfig
from caption_assets.config.kafka import Topic

_REPLIES = "kafka-replies-"


def channels(config: PipelineConfig) -> list[str]:
    """The channels of a pipeline file; none where nothing goes to Kafka."""
    topics = [topic_channel(topic) for topic in dict.fromkeys(config.kafka.topics)] if config.kafka else []
    return [*topics, *(replies_channel(name) for name in sorted(config.datasets) if replies(config, name))]


def topic_channel(topic: Topic) -> str:
    """The channel of a topic."""
    return f"kafka-{topic}"


def replies_channel(dataset: str) -> str:
    """The channel of the replies to a dataset's requests."""
    return f"{_REPLIES}{dataset}"


def replied_dataset(channel: str) -> str | None:
    """The dataset of a channel of replies; None for a topic's."""
    return channel.removeprefix(_REPLIES) if channel.startswith(_REPLIES) else None


def replies(config: PipelineConfig, dataset: str) -> bool:
    """Whether requests of a dataset may name a topic for their replies."""
    section = config.datasets.get(dataset)
    return isinstance(section, KafkaDataset) and bool(section.reply_topics)
