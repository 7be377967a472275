"""TLS and SASL, against a broker in a process of its own: both ways, and what is said when something does not fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE, load_config
from caption_assets_tests.kafka.tansu import KEY_PASSWORD, PASSWORD, USER, Tansu, authority_in, running
from caption_assets_tests.sensors.kafka_world import SHARDS, TOPICS, Told

_TOPICS = {"topics": ["media.processed", "captions.result", "captions.failed", "jobs.status"]}


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    with running(tmp_path_factory.mktemp("tansu")) as broker:
        broker.create("captions.request", *TOPICS)
        yield broker


@pytest.fixture
def broker(_cluster: Tansu, monkeypatch: pytest.MonkeyPatch) -> Tansu:
    monkeypatch.setenv("KAFKA_USER", USER)
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("KAFKA_KEY_PASSWORD", KEY_PASSWORD)
    return _cluster


class Secured(Told):
    """As `Told`, over topics of its own."""

    def __init__(self, home: Path, pictures: Path, broker: Tansu, prefix: str, **security: Any) -> None:
        self.prefix = f"{prefix}."
        broker.create(*(f"{self.prefix}{topic}" for topic in _TOPICS["topics"]))
        section = {"security": {**broker.security, **security}, "topic_prefix": self.prefix, **_TOPICS}
        super().__init__(home, pictures, broker, kafka=section)

    def received(self, topic: str) -> list[Any]:
        return super().received(topic if topic.startswith("replies.") else f"{self.prefix}{topic}")

    def secure(self, **security: Any) -> None:
        """Write other settings into the pipeline file."""
        file = self.pipeline.config.file
        document = yaml.safe_load(file.read_text())
        document["kafka"]["security"] |= security
        file.write_text(yaml.safe_dump(document))
        self.pipeline.config = load_config(file)


def test_a_request_comes_in_and_everything_goes_out(tmp_path: Path, pictures: Path, broker: Tansu) -> None:
    broker.create("replies.one")
    told = Secured(tmp_path, pictures, broker, "both")
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    data = {"uri": told.source[5].name, "perspectives": ["scene_count"], "reply_topic": "replies.one"}
    broker.send("captions.request", {"version": 1, "id": "r", "type": "captions.request", "data": data})
    assert told.arrive() == ["asked-000000"]
    assert broker.committed("captions.request")[0] == 1
    assert "waiting" not in told.tick()
    told.agrees_with_lake()
    (reply,) = told.received("replies.one")
    assert reply.data["request"]["id"] == "r"
    assert told.arrive() == []
    assert told.tick().endswith("nothing sent")
    assert broker.front.admitted > 5, "all of it with certificate and password, over TLS"


@pytest.mark.parametrize("mechanism", ["PLAIN", pytest.param("SCRAM-SHA-512", marks=pytest.mark.slow)])
def test_a_wrong_password_is_named_and_loses_nothing(
    tmp_path: Path, pictures: Path, broker: Tansu, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    told = Secured(tmp_path, pictures, broker, f"password-{mechanism}", mechanism=mechanism)
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-never-shown")
    line = told.tick()
    assert f"kafka.security: {broker.address} refuses mechanism, username or password: SASL authentication" in line
    assert "never-shown" not in line
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    assert "waiting" not in told.tick()
    told.agrees_with_lake()


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for_is_named_and_loses_nothing(
    tmp_path: Path, pictures: Path, broker: Tansu
) -> None:
    stranger = authority_in(tmp_path, "stranger.pem")
    told = Secured(tmp_path, pictures, broker, "certificate", ca="stranger.pem")
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    expected = f"kafka.security.ca: the certificate of {broker.address} cannot be verified; name who signed it"
    assert expected in told.tick()
    result = told.evaluate("arrivals_asked")
    assert isinstance(result, dg.SkipReason)
    assert expected in str(result.skip_message)
    checked = CliRunner().invoke(main, ["check"], env={CONFIG_VARIABLE: str(told.pipeline.config.file)})
    assert expected in checked.output
    assert checked.exit_code == 1, "a dataset cannot be read"
    stranger.file.unlink()
    assert f"kafka.security.ca: there is no file {stranger.file}" in told.tick()
    told.secure(ca=broker.security["ca"])
    assert "waiting" not in told.tick()
    told.agrees_with_lake()


@pytest.mark.slow
def test_a_broker_that_wants_a_certificate_of_us(tmp_path: Path, pictures: Path, broker: Tansu) -> None:
    told = Secured(tmp_path, pictures, broker, "ours", certificate=None, key=None)
    told.pipeline.ingest()
    line = told.tick()
    assert f"waiting: no broker of {broker.address} answers: Disconnected: " in line
    assert "kafka.security: another protocol, or a certificate of ours, may be wanted" in line
    told.secure(**broker.security)
    assert "waiting" not in told.tick()


@pytest.mark.slow
def test_a_wrong_protocol_is_named(tmp_path: Path, pictures: Path, broker: Tansu) -> None:
    plain = dict.fromkeys(("ca", "certificate", "key", "key_password"))
    told = Secured(tmp_path, pictures, broker, "protocol", protocol="sasl_plaintext", **plain)
    told.pipeline.ingest()
    assert "kafka.security: another protocol, or a certificate of ours, may be wanted" in told.tick()
    told.secure(**broker.security)
    assert "waiting" not in told.tick()


@pytest.mark.slow
def test_a_broker_that_hangs_costs_a_tick_seconds_and_loses_nothing(
    tmp_path: Path, pictures: Path, broker: Tansu
) -> None:
    told = Secured(tmp_path, pictures, broker, "hangs")
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.tick()
    broker.freeze()
    try:
        told.pipeline.caption(SHARDS[1])
        started = time.monotonic()
        assert "waiting: no broker of " in told.tick()
        assert time.monotonic() - started < 20
    finally:
        broker.thaw()
    assert "waiting" not in told.tick()
    told.agrees_with_lake()
