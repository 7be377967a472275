"""Requests that come in by Kafka: captioned, answered, refused."""

from __future__ import annotations

from collections import Counter

import dagster as dg

from caption_assets_tests.assets.running import ANSWERS, PERSPECTIVES
from caption_assets_tests.kafka.broker import UNKNOWN_TOPIC, Broker
from caption_assets_tests.sensors.kafka_world import Told


def test_a_request_is_captioned_and_answered_with_its_correlation_id(told: Told, broker: Broker) -> None:
    broker.create("captions.request", "replies.one")
    asking = {"uri": told.source[5].name, "perspectives": ["scene_count"], "correlation_id": "c-1"}
    wants_all = {"uri": told.source[5].name, "correlation_id": "c-2"}
    unknown = {"uri": told.source[5].name, "correlation_id": "c-3", "perspectives": ["absent"]}
    absent = {"uri": "absent.png", "correlation_id": "c-4", "perspectives": ["scene_count"]}
    for number, data in enumerate([{**asking, "reply_topic": "replies.one"}, wants_all, unknown, absent]):
        message = {"version": 1, "id": f"r-{number}", "type": "captions.request", "data": data}
        broker.send("captions.request", message)
    assert told.arrive() == ["asked-000000"]
    (refused,) = told.received("captions.failed")
    assert (refused.data["kind"], refused.data["request"]["correlation_id"]) == ("unknown_perspective", "c-3")
    told.tick()
    (private,) = told.received("replies.one")
    assert private.data["request"] == {"id": "r-0", "correlation_id": "c-1"}
    assert private.data["output"] == ANSWERS["scene_count"]
    public = [each.data for each in told.received("captions.result") if each.data["request"]]
    assert {(each["request"]["correlation_id"], each["perspective"]) for each in public} == {
        ("c-2", name) for name in PERSPECTIVES
    }
    failed = [each.data for each in told.received("captions.failed") if each.data["request"]]
    assert Counter((each["request"]["correlation_id"], each["kind"]) for each in failed) == Counter(
        [("c-3", "unknown_perspective"), ("c-4", "gone")]
    )
    told.tick()
    assert len(told.received("replies.one")) == 1
    assert told.arrive() == []


def test_replies_to_a_topic_that_is_not_there_are_given_up(told: Told, broker: Broker) -> None:
    broker.create("captions.request", "replies.gone")
    broker.refuse("replies.gone", UNKNOWN_TOPIC)
    data = {"uri": told.source[5].name, "perspectives": ["scene_count"], "reply_topic": "replies.gone"}
    broker.send("captions.request", {"version": 1, "id": "r", "type": "captions.request", "data": data})
    told.arrive()
    assert "1 kafka-replies-asked given up" in told.tick()
    assert told.tick() == "0 new events; kafka: nothing sent"


def test_a_topic_that_is_away_is_a_skipped_tick(told: Told, broker: Broker) -> None:
    broker.create("captions.request")
    broker.go_down()
    result = told.evaluate("arrivals_asked")
    assert isinstance(result, dg.SkipReason)
    assert "no broker of 127.0.0.1" in str(result.skip_message)
