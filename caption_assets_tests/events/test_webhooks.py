"""Requests: what they hold and how they are signed, where they may go, and what nobody may read."""

from __future__ import annotations

import base64
import hmac
import json
import logging
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from caption_assets.events.event import SCHEMA_FILE
from caption_assets.lake.store import Lake
from caption_assets_tests.events.receiver import Delivery, Receiver
from caption_assets_tests.events.world import SECRET, SIGNED, TOKEN, World
from caption_assets_tests.sources.web_server import Names


def verified(delivery: Delivery, secret: str) -> bool:
    """As a receiver would, from what the README says."""
    signed = delivery.headers["X-Caption-Assets-Timestamp"].encode() + b"." + delivery.body
    algorithm, _, given = delivery.headers["X-Caption-Assets-Signature"].partition("=")
    made = base64.b16encode(hmac.digest(secret.encode(), signed, algorithm)).decode().lower()
    return hmac.compare_digest(made, given)


def test_what_a_receiver_gets(world: World, receiver: Receiver) -> None:
    world.done("a-000000", failed=2, failure_kinds='{"gone": 2}', already_there=4)
    world.done("a-000000", step="captions", cost=0.25)
    world.ended("run", "job.failed", "a-000000", "a-000001", error="no media for a-000001\nmore of it")
    told = world.tell()
    assert told == ["3 new events", f"callbacks.0 (127.0.0.1:{receiver.port}): 3 delivered"]
    media, captions, job = [each.event for each in receiver.requests]
    assert media["datasets"] == captions["datasets"] == job["datasets"] == ["a"]
    assert media["type"] == "shard.media"
    assert media["occurred_at"] == "2026-03-01T12:00:01.000000Z"
    counts = {name: media["data"][name] for name in ("planned", "done", "already_there", "failed", "failure_kinds")}
    assert counts == {"planned": 9, "done": 3, "already_there": 4, "failed": 2, "failure_kinds": {"gone": 2}}
    assert media["data"]["results"]["index"] == world.lake.url("media/dataset=a/a-000000.parquet")
    assert captions["type"] == "shard.captions"
    (look,) = captions["data"]["perspectives"]
    assert (look["perspective"], look["done"], look["cost"]) == ("scene_count", 3, 0.25)
    assert job["data"]["partitions"] == {"count": 2, "first": "a-000000", "last": "a-000001"}
    assert job["data"]["error"] == "no media for a-000001"
    schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    for event in (media, captions, job):
        schema.validate(event)


def test_requests_are_signed_and_name_themselves(world: World, receiver: Receiver) -> None:
    world.done("a-000000")
    world.tell()
    (delivery,) = receiver.requests
    assert delivery.headers["Authorization"] == f"Bearer {TOKEN}"
    assert delivery.headers["Content-Type"] == "application/json"
    assert delivery.headers["X-Caption-Assets-Delivery"] == delivery.event["id"]
    assert delivery.headers["X-Caption-Assets-Event"] == "shard.media"
    assert int(delivery.headers["X-Caption-Assets-Timestamp"]) == int(world.now.timestamp())
    assert verified(delivery, SECRET)
    assert not verified(delivery, "another")
    assert not verified(Delivery(delivery.path, delivery.headers, delivery.body + b" "), SECRET)


def test_without_a_secret_nothing_is_signed(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    world.done("a-000000")
    world.tell()
    assert not {"Authorization", "X-Caption-Assets-Signature"} & receiver.requests[0].headers.keys()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(world: World, receiver: Receiver, status: int) -> None:
    receiver.answer = lambda delivery: (status, {"Location": receiver.url("/elsewhere")})
    world.done("a-000000")
    assert f"it answers {status}, and redirects are not followed" in world.tell()[1]
    assert receiver.at("/elsewhere") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "hooks.test"])
def test_private_addresses_are_refused(tmp_path: Path, receiver: Receiver, host: str) -> None:
    world = World(tmp_path, [{"url": f"http://{host}:{receiver.port}/hook"}])
    world.done("a-000000")
    names = Names(hooks_test="127.0.0.1") if host == "hooks.test" else None
    (line,) = world.tell(resolver=names)[1:]
    assert "1 waiting" in line
    assert "allow_hosts" in line
    assert receiver.requests == []
    world.callbacks([{"url": f"http://{host}:{receiver.port}/hook", "allow_hosts": [host.strip("[]")]}])
    world.pass_(minutes=1)
    if host in ("127.0.0.1", "hooks.test"):
        world.tell(resolver=names)
        assert len(receiver.requests) == 1


def test_a_secret_that_is_not_set_is_named_and_nothing_is_lost(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    world.done("a-000000")
    assert "1 waiting, nothing is sent: callbacks.0.secret: the environment variable HOOK_SECRET" in world.tell()[1]
    assert receiver.requests == []
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    world.tell()
    assert receiver.shards() == ["a-000000"]


def test_keys_and_the_path_of_a_url_stand_nowhere(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = World(tmp_path, [receiver.callback("/path-never-shown?key=query-never-shown", **SIGNED)])
    world.done("a-000000")
    lines = []
    for answer in (500, (302, {"Location": receiver.url("/path-never-shown")}), 204):
        receiver.answer = lambda delivery, answer=answer: answer  # type: ignore[misc]
        lines += world.tell()
        world.pass_(minutes=5)
    assert len(receiver.requests) == 3
    assert "never-shown" not in "\n".join([*lines, *world.warnings, world.stored(), caplog.text])


def test_ids_do_not_depend_on_who_finds_the_events(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    world.done("a-000000")
    world.ended("run", "job.succeeded", "a-000000")
    world.tell()
    Lake(world.config.lake).remove_folder("events")
    world.tell()
    first, second = receiver.requests[:2], receiver.requests[2:]
    assert [each.body for each in first] == [each.body for each in second]
    assert first[0].event["id"] != first[1].event["id"]
