"""A receiver of callbacks, a Kafka cluster, and a pipeline that speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caption_assets_tests.events.receiver import Receiver, receiving
from caption_assets_tests.kafka import broker as kafka
from caption_assets_tests.sensors.kafka_world import Told


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def broker() -> Iterator[kafka.Broker]:
    with kafka.running() as cluster:
        yield cluster


@pytest.fixture
def told(tmp_path: Path, pictures: Path, broker: kafka.Broker) -> Told:
    return Told(tmp_path, pictures, broker)
