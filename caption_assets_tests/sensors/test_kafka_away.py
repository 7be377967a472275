"""Kafka out, with something away: whatever died or was gone in between, nothing is lost, and nothing invented."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from caption_assets.events.lease import LEASE, lease
from caption_assets.kafka import client
from caption_assets.lake import layout, tables
from caption_assets.sensors.alerts import ALERTS
from caption_assets_tests.kafka.broker import UNKNOWN_TOPIC, Broker
from caption_assets_tests.sensors.kafka_world import SHARDS, TOPICS, Told


@pytest.mark.slow
def test_an_hour_without_a_broker_loses_and_invents_nothing(
    tmp_path: Path, pictures: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, failures, a run that fails and an alert: all of it while the broker is away for 75 minutes."""
    sections = {"alerts": {"arrivals": {"demo": {"within_hours": 0.5}}}, "captions": {"max_failure_share": 1.0}}
    told = Told(tmp_path, pictures, broker, **sections)
    clock, real = [timedelta()], tables.now
    monkeypatch.setattr(tables, "now", lambda: real() + clock[0])
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.evaluate(ALERTS)
    told.tick()
    before = {id_ for each in told.everything().values() for id_ in each}
    broker.go_down()
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    began: datetime = tables.now()
    for number in range(30):
        clock[0] += timedelta(seconds=150)
        if number in (2, 5, 8, 27):
            told.add(2)
            if number == 5:
                newest = max((tmp_path / "demo").iterdir())
                newest.write_bytes(b"no picture")
            told.pipeline.ingest()
            key = told.pipeline.shards[-1]
            assert told.pipeline.run("caption_job", key, select=["captions/scene_count"]).success is False
            assert told.pipeline.caption(key).success
        told.evaluate(ALERTS)
        line = told.tick()
        assert ("waiting: no broker of " in line) == (number > 0), "at first there is nothing to tell"
    assert tables.now() - began > timedelta(hours=1)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 5.0)
    broker.come_up()
    assert "waiting" not in told.tick()
    told.agrees_with_lake()
    told.agrees_with_runs()
    ids = [id_ for each in told.everything().values() for id_ in each]
    assert len(ids) == len(set(ids)), "nothing was told twice"
    assert before < set(ids)
    logs = [(each.data["level"], each.data["event"]) for each in told.received("system.logs")]
    assert sorted(logs) == [
        *4 * [("error", "job.failed")],
        ("info", "alert.arrivals"),
        ("warning", "alert.arrivals"),
    ]
    (failure,) = [each.data for each in told.received("captions.failed")]
    assert (failure["kind"], failure["shard"]) == ("not_an_image", "demo-000003")
    metrics = [each.data["totals"] for each in told.received("system.metrics")]
    assert len(metrics) == 16, "one in five minutes, and the first"
    assert sum(each["pictures"] for each in metrics) == len(told.received("media.processed")) == 9
    assert sum(each["captions"] for each in metrics) == len(told.received("captions.result")) == 36
    assert "nothing sent" in told.tick()


@pytest.mark.slow
def test_a_topic_that_is_not_there_holds_back_nothing_else(told: Told, broker: Broker) -> None:
    broker.create(*TOPICS)
    broker.refuse("captions.result", UNKNOWN_TOPIC)
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    message = told.tick()
    assert "captions.result waiting: captions.result: " in message
    assert "create it, or leave it out of kafka.topics" in message
    assert len(told.received("media.processed")) == 4
    assert len(told.received("job_items.completed")) == 10
    before: dict[str, list[str]] = told.everything()
    broker.refuse("captions.result", 0)
    assert "16 captions.result" in told.tick()
    told.agrees_with_lake()
    after = told.everything()
    del before["captions.result"], after["captions.result"]
    assert after == before


def test_a_tick_that_dies_before_it_wrote_down_what_it_sent_sends_it_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    with monkeypatch.context() as patched:
        patched.setattr("caption_assets.events.published.Published.save", _die)
        with pytest.raises(Killed):
            told.tick()
    told.pipeline.lake.remove_folder("events/kafka/leases")  # as after a minute and a half
    told.tick()
    results = [each.envelope for each in told.received("captions.result")]
    assert len(results) > 16
    assert len({each["id"] for each in results}) == 16
    assert len({json.dumps(each, sort_keys=True) for each in results}) == 16, "the same id is the same message"


def test_rows_of_a_run_that_died_are_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.pipeline.ingest()
    told.pipeline.run("caption_job", SHARDS[0], select=["media"])
    told.tick()
    with monkeypatch.context() as patched:
        patched.setattr("caption_assets.assets.captions._write_runs", _fail)
        assert not told.pipeline.caption(SHARDS[0]).success
    told.tick()
    assert len(told.received("captions.result")) == 8, "though nobody wrote into the runs table"
    told.agrees_with_lake()


def test_two_publishers_take_turns_and_one_that_was_killed_holds_up_nobody_for_long(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    clock = [tables.now()]
    with lease(told.pipeline.lake, lambda: clock[0], layout.KAFKA_LEASES) as others_until:
        assert others_until is None
        assert told.tick().startswith("another process is telling, until ")
        assert "4 new events" not in told.tick()
        # this one is killed here: its lease stays as it is, until it expires
        clock[0] -= 2 * LEASE
    assert "8 captions.result" in told.tick()
    told.agrees_with_lake()


def test_publishers_at_once_lose_nothing(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    with ThreadPoolExecutor(3) as pool:
        lines = list(pool.map(lambda _: told.tick(), range(3)))
    assert sum("16 captions.result" in line for line in lines) == 1
    told.agrees_with_lake()


class Killed(BaseException):
    """As if the process had ended."""


def _die(*_: object) -> None:
    raise Killed


def _fail(*_: object) -> None:
    raise RuntimeError("killed here")
