"""The section `kafka` and datasets of that kind: mistakes are named, and no password is ever shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import ConfigError, KafkaDataset, load_config
from caption_assets.kafka.client import Cluster
from caption_assets_tests.pipeline_files import complaints, document, write

BROKERS = ["kafka-0:9092", "[::1]:9093"]
SASL = {
    "protocol": "sasl_ssl",
    "mechanism": "SCRAM-SHA-512",
    "username": {"env": "KAFKA_USER"},
    "password": {"env": "KAFKA_PASSWORD"},
    "ca": "ca.pem",
}


def test_a_section_and_datasets_that_share_its_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path,
        document(
            kafka={"brokers": BROKERS, "security": SASL, "topic_prefix": "captions.", "topics": ["captions.result"]},
            datasets__asked={"kind": "kafka", "topic": "captions.request", "watch": True},
            datasets__own={"kind": "kafka", "brokers": ["other:9092"]},
        ),
    )
    config = load_config(file)
    assert config.kafka is not None
    assert config.kafka.topic("captions.result") == "captions.captions.result"
    assert config.kafka_connection("asked").security.mechanism == "SCRAM-SHA-512"
    assert config.kafka_connection("own").security.protocol == "plaintext"
    assert config.dataset_place("asked") == "kafka://kafka-0:9092/captions.request"
    assert isinstance(config.datasets["asked"], KafkaDataset)
    with pytest.raises(ConfigError, match=r"kafka\.security\.username: the environment variable KAFKA_USER is not set"):
        Cluster(config.kafka, "kafka", config.base_dir)
    monkeypatch.setenv("KAFKA_USER", "me")
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    with pytest.raises(ConfigError, match=r"kafka\.security\.ca: there is no file .*/ca\.pem"):
        Cluster(config.kafka, "kafka", config.base_dir)
    (tmp_path / "ca.pem").touch()
    found = Cluster(config.kafka, "kafka", config.base_dir).settings
    assert (found["sasl.mechanism"], found["sasl.username"], found["sasl.password"]) == (
        "SCRAM-SHA-512",
        "me",
        "s3cret",
    )
    assert (found["security.protocol"], found["ssl.ca.location"]) == ("sasl_ssl", str(tmp_path / "ca.pem"))


def test_a_certificate_and_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    security = {"protocol": "ssl", "certificate": "own.pem", "key": "own.key", "key_password": {"env": "KEY_PASSWORD"}}
    config = load_config(write(tmp_path, document(kafka={"brokers": BROKERS, "security": security})))
    assert config.kafka is not None
    (tmp_path / "own.pem").touch()
    (tmp_path / "own.key").touch()
    with pytest.raises(ConfigError, match=r"kafka\.security\.key_password: the environment variable KEY_PASSWORD is"):
        Cluster(config.kafka, "kafka", config.base_dir)
    monkeypatch.setenv("KEY_PASSWORD", "s3cret")
    found = Cluster(config.kafka, "kafka", config.base_dir).settings
    assert found["ssl.certificate.location"] == str(tmp_path / "own.pem")
    assert (found["ssl.key.location"], found["ssl.key.password"]) == (str(tmp_path / "own.key"), "s3cret")
    assert "ssl.ca.location" not in found, "the system's"


def test_all_topics_are_the_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, document(kafka={"brokers": BROKERS})))
    assert config.kafka is not None
    assert len(config.kafka.topics) == 10


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, "kafka.brokers: is missing; add it"),
        ({"brokers": []}, "kafka.brokers: must not be empty; add at least one entry"),
        ({"brokers": ["never-shown@host"]}, "kafka.brokers: entry 0 is no broker; write host:port"),
        ({"brokers": ["host:99999"]}, "kafka.brokers: entry 0 is no broker; write host:port"),
        ({"topics": ["captions.done"]}, "kafka.topics.0: must be one of 'media.processed', 'captions.result', "),
        ({"topic_prefix": "a/b"}, "kafka.topic_prefix: 'a/b' is no topic: use letters, digits"),
        ({"security": {"protocol": "sasl_ssl"}}, "kafka.security: protocol sasl_ssl needs mechanism, username and"),
        ({"security": {"ca": "ca.pem"}}, "kafka.security: protocol plaintext uses no certificates; write ssl or"),
        ({"security": {**SASL, "protocol": "ssl"}}, "kafka.security: protocol ssl knows no mechanism; write sasl_ssl"),
        (
            {"security": {**SASL, "password": "never-shown"}},
            "kafka.security.password: a key must not stand in the pipeline file; write {env: NAME}",
        ),
        ({"brokrs": []}, "kafka.brokrs: unknown key; did you mean 'brokers'?"),
    ],
)
def test_mistakes_of_the_section(tmp_path: Path, section: dict[str, Any], expected: str) -> None:
    found = complaints(tmp_path, document(kafka={"brokers": BROKERS, **section} if section else {}))
    assert any(line.startswith(expected) for line in found), found
    assert "never-shown" not in "".join(found)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({}, "kafka: is missing, and dataset 'asked' names no brokers; add one of the two"),
        ({"brokers": ["host"]}, "datasets.asked.brokers: entry 0 is no broker; write host:port"),
        ({"topic": "a b"}, "datasets.asked.topic: 'a b' is no topic: use letters"),
        ({"security": SASL}, "datasets.asked: security without brokers; name brokers here too"),
        ({"brokers": BROKERS, "root": "xyz://b"}, "datasets.asked.root: there is no filesystem for xyz://"),
    ],
)
def test_mistakes_of_a_dataset(tmp_path: Path, dataset: dict[str, Any], expected: str) -> None:
    found = complaints(tmp_path, document(datasets__asked={"kind": "kafka", **dataset}))
    assert any(line.startswith(expected) for line in found), found
