"""`caption-assets check` on Kafka: what is published, what is not there, what is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE
from caption_assets_tests.kafka.broker import Broker, running
from caption_assets_tests.pipeline_files import document, write


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as cluster:
        yield cluster


def check(folder: Path, kafka: dict[str, Any], **changes: Any) -> Result:
    """Check a pipeline file with this section."""
    file = write(folder, yaml.safe_dump(document(kafka=kafka, **changes)))
    return CliRunner().invoke(main, ["check"], env={CONFIG_VARIABLE: str(file)})


def test_topics_are_listed_and_absent_ones_named(tmp_path: Path, broker: Broker) -> None:
    broker.create("x.captions.result", "media.uploaded")
    section = {"brokers": [broker.address], "topic_prefix": "x.", "topics": ["captions.result", "jobs.status"]}
    result = check(tmp_path, section, datasets__up={"kind": "kafka"})
    assert result.exit_code == 0, result.output
    assert f"kafka {broker.address}: x.captions.result, x.jobs.status" in result.output
    assert "kafka.topics: there is no topic x.jobs.status; create it" in result.output
    assert f"dataset up: kafka kafka://{broker.address}/media.uploaded" in result.output


def test_what_is_away_or_not_set_is_a_warning_for_what_is_published(tmp_path: Path) -> None:
    result = check(tmp_path, {"brokers": ["127.0.0.1:9"]})
    assert result.exit_code == 0
    assert "warning: no broker of 127.0.0.1:9 answers: Connect to ipv4#127.0.0.1:9 failed: Connection refused" in (
        result.output
    )
    secret = {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": {"env": "NO"}, "password": {"env": "NO"}}
    result = check(tmp_path, {"brokers": ["127.0.0.1:9"], "security": secret})
    assert "kafka.security.username: the environment variable NO is not set" in result.output


def test_a_dataset_whose_topic_is_not_there_is_an_error(tmp_path: Path, broker: Broker) -> None:
    result = check(tmp_path, {"brokers": [broker.address]}, datasets__up={"kind": "kafka", "topic": "absent"})
    assert result.exit_code == 1
    assert "datasets.up.topic: " in result.output
    assert "there is no topic absent; create it" in result.output
