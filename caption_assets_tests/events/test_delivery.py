"""Delivery: in order per dataset, at least once, tried for a day; one receiver's trouble is its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from caption_assets.events.event import SCHEMA_FILE
from caption_assets.lake.current import promote
from caption_assets_tests.events.receiver import Delivery, Receiver, Status, receiving, slow
from caption_assets_tests.events.world import SIGNED, World


def test_nothing_is_told_twice(world: World, receiver: Receiver) -> None:
    world.done("a-000000")
    world.ended("run", "job.succeeded", "a-000000")
    world.tell()
    assert world.tell() == ["0 new events", f"callbacks.0 (127.0.0.1:{receiver.port}): 0 delivered"]
    world.pass_(days=8)
    world.tell()
    assert receiver.types() == ["shard.media", "job.succeeded"]
    world.done("a-000000", "another run")
    world.tell()
    assert receiver.types() == ["shard.media", "job.succeeded", "shard.media"]
    assert len({each.event["id"] for each in receiver.requests}) == 3


def test_an_event_of_two_datasets_waits_for_both(world: World, receiver: Receiver) -> None:
    world.done("a-000000")
    world.ended("run", "job.succeeded", "a-000000", "b-000000")
    world.done("b-000001", "later")
    receiver.answer = lambda delivery: 500 if delivery.event["type"] == "job.succeeded" else 204
    world.tell()
    assert receiver.types() == ["shard.media", "job.succeeded"], "the shard of b comes after the job that has b"
    receiver.answer = lambda delivery: 204
    world.pass_(hours=1)
    world.tell()
    assert receiver.types() == ["shard.media", "job.succeeded", "job.succeeded", "shard.media"]


def test_a_failing_event_holds_back_its_dataset_at_its_receiver_and_nothing_else(
    tmp_path: Path, receiver: Receiver
) -> None:
    world = World(tmp_path, [receiver.callback("/one"), receiver.callback("/two")])
    for number in range(3):
        world.done(f"a-{number:06d}")
        world.done(f"b-{number:06d}")

    def answer(delivery: Delivery) -> Status:
        return 503 if delivery.path == "/one" and delivery.event["data"]["shard"] == "a-000001" else 204

    receiver.answer = answer
    told = world.tell()
    assert sorted(receiver.shards("/two")) == sorted([f"{name}-{n:06d}" for name in "ab" for n in range(3)])
    assert Counter(receiver.shards("/one")) == Counter(["a-000000", "a-000001", "b-000000", "b-000001", "b-000002"])
    assert "4 delivered, 2 waiting until 2026-03-01 12:00:" in told[1]
    assert told[1].endswith("it answers 503")
    receiver.answer = lambda delivery: 204
    world.tell()
    assert "a-000002" not in receiver.shards("/one"), "not before its time"
    world.pass_(minutes=1)
    world.tell()
    in_a = [key for key in receiver.shards("/one") if key.startswith("a")]
    assert in_a == ["a-000000", "a-000001", "a-000001", "a-000002"]


def test_order_holds_over_many_events(world: World, receiver: Receiver) -> None:
    failures = iter(range(1000))
    receiver.answer = lambda delivery: 500 if next(failures) % 7 == 3 else 204
    for number in range(12):
        world.done(f"a-{number:06d}")
        world.done(f"b-{number:06d}")
        world.tell()
    for _ in range(40):
        world.pass_(minutes=30)
        world.tell()
    for name in "ab":
        got = [key for key in receiver.shards() if key.startswith(name)]
        assert list(dict.fromkeys(got)) == [f"{name}-{number:06d}" for number in range(12)]
        assert got == sorted(got), "an attempt of a later one never comes before the last of an earlier one"


@pytest.mark.parametrize("trouble", ["refused", "silent"])
def test_a_dead_receiver_does_not_keep_another_one_waiting(tmp_path: Path, receiver: Receiver, trouble: str) -> None:
    dead = "http://127.0.0.1:9/" if trouble == "refused" else receiver.url("/silent")
    callbacks = [{"url": dead, "allow_hosts": ["127.0.0.1"], "timeout_seconds": 0.5}, receiver.callback("/alive")]
    world = World(tmp_path, callbacks)
    receiver.answer = lambda delivery: slow(1.0)(delivery) if delivery.path == "/silent" else 204
    for number in range(30):
        world.done(f"a-{number:06d}")
    started = time.monotonic()
    told = world.tell()
    assert time.monotonic() - started < 5
    assert len(receiver.shards("/alive")) == 30
    assert "30 waiting until" in told[1]
    assert ("no connection" if trouble == "refused" else "no answer in 0.5 s") in told[1]


def test_a_round_begins_no_request_once_its_time_is_over(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    for number in range(30):
        world.done(f"a-{number:06d}")
    receiver.answer = slow(0.1)
    told = world.tell(budget=0.35)
    assert 1 <= len(receiver.requests) <= 5
    assert told[1].endswith(f"{len(receiver.requests)} delivered, {30 - len(receiver.requests)} waiting")
    receiver.answer = lambda delivery: 204
    world.tell()
    assert receiver.shards() == [f"a-{number:06d}" for number in range(30)]


def test_an_event_is_tried_for_a_day_with_longer_and_longer_pauses(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda delivery: 500
    world.done("a-000000")
    tried: list[float] = []
    made = world.now
    given_up = None
    while (world.now - made).total_seconds() < 2 * 86_400:
        before = len(receiver.requests)
        (line,) = world.tell()[1:]
        if len(receiver.requests) > before:
            tried.append((world.now - made).total_seconds())
        if "given up" in line and given_up is None:
            given_up = (world.now - made).total_seconds()
        world.pass_(seconds=30 if len(tried) < 8 else 600)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert given_up == tried[-1]
    assert 86_400 <= given_up < 86_400 + 1200
    assert len({each.event["id"] for each in receiver.requests}) == 1
    assert 25 < len(tried) < 70
    assert pauses[0] <= 60
    assert max(pauses) <= 3600 + 600
    receiver.answer = lambda delivery: 204
    world.done("a-000001")
    world.pass_(hours=1)
    world.tell()
    assert receiver.shards()[-1] == "a-000001", "life goes on"


def test_a_receiver_away_for_a_day_gets_all_that_happened_once_and_in_order(tmp_path: Path) -> None:
    """Away is nobody at the port. Each round is told by a process that knows only the lake, as after a restart."""
    with receiving() as receiver:
        world, port = World(tmp_path, [receiver.callback(**SIGNED)]), receiver.port
        world.done("a-000000")
        world.tell()
        assert receiver.shards() == ["a-000000"]
    happened: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
    for number in range(1, 46):  # 22 hours
        for name in ("a", "b") if number % 2 else ("a",):
            key = f"{name}-{number:06d}"
            world.done(key, f"run-{number}")
            world.ended(f"run-{number}-{name}", "job.failed" if number % 5 == 0 else "job.succeeded", key)
            happened[name] += [("shard.media", key), (world.jobs[-1].outcome, key)]
        (line,) = world.tell()[1:]
        assert "no connection" in line
        world.pass_(minutes=30)
    with receiving(port) as receiver:
        for _ in range(3):
            world.pass_(minutes=25)
            world.tell()
        told: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
        for delivery in receiver.requests:
            (name,) = delivery.event["datasets"]
            data = delivery.event["data"]
            told[name].append((delivery.event["type"], data.get("shard") or data["partitions"]["first"]))
        assert told == happened
        assert len({each.event["id"] for each in receiver.requests}) == len(receiver.requests)
        assert len(world.lake.list("events/outbox")) == 1


def test_a_receiver_away_for_days_gets_those_of_its_last_day(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda delivery: 500
    for number in range(72):
        world.done(f"a-{number:06d}")
        world.tell()
        world.pass_(hours=1)
    files = world.lake.list("events/outbox")
    assert len(files) < 60, "the outbox does not grow without end"
    receiver.answer = lambda delivery: 204
    receiver.requests.clear()
    world.pass_(hours=1)
    world.tell()
    assert receiver.shards()[-24:] == [f"a-{number:06d}" for number in range(48, 72)]
    assert len(receiver.shards()) <= 27


def test_retry_after_is_honoured(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda delivery: (429, {"Retry-After": "1800"})
    world.done("a-000000")
    world.tell()
    receiver.answer = lambda delivery: 204
    world.pass_(minutes=29)
    world.tell()
    assert len(receiver.requests) == 1
    world.pass_(minutes=2)
    world.tell()
    assert len(receiver.requests) == 2


def test_a_receiver_that_is_gone_is_left_alone(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda delivery: 410
    world.done("a-000000")
    assert "410 Gone and gets nothing more" in world.tell()[1]
    receiver.answer = lambda delivery: 204
    world.done("a-000001")
    world.pass_(days=2)
    assert "410 Gone and gets nothing more" in world.tell()[1]
    assert len(receiver.requests) == 1


def test_a_receiver_hears_of_its_datasets_and_its_events_only(tmp_path: Path, receiver: Receiver) -> None:
    world = World(
        tmp_path,
        [receiver.callback("/a", datasets=["a"]), receiver.callback("/jobs", events=["job.failed", "job.cancelled"])],
    )
    world.done("a-000000")
    world.done("b-000000")
    world.ended("one", "job.succeeded", "a-000000", "b-000000")
    world.ended("two", "job.cancelled")
    world.ended("three", "job.failed", "b-000000")
    world.tell()
    assert receiver.types("/a") == ["shard.media", "job.succeeded"]
    assert sorted(receiver.types("/jobs")) == ["job.cancelled", "job.failed"]


def test_a_new_receiver_hears_what_comes_and_the_first_one_the_last_day(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback("/first")])
    world.done("a-000000")
    world.pass_(days=2)
    world.done("a-000001")
    world.tell()
    assert receiver.shards("/first") == ["a-000001"]
    receiver.answer = lambda delivery: 500
    world.done("a-000002")
    world.tell()
    receiver.answer = lambda delivery: 204
    assert len(world.lake.list("events/outbox")) > 1, "what the first one lacks is still there"
    world.callbacks([receiver.callback("/first"), receiver.callback("/second")])
    world.done("a-000003")
    world.pass_(minutes=1)
    world.tell()
    assert receiver.shards("/first") == ["a-000001", "a-000002", "a-000002", "a-000003"]
    assert receiver.shards("/second") == ["a-000003"]


def test_a_daemon_that_was_away_for_days_tells_all(world: World, receiver: Receiver) -> None:
    world.tell()
    world.done("a-000000")
    world.pass_(days=3)
    world.done("a-000001")
    world.ended("run", "job.succeeded", "a-000001")
    world.pass_(days=2)
    world.tell()
    assert receiver.shards() == ["a-000000", "a-000001"]
    assert receiver.types()[-1] == "job.succeeded"


def test_files_that_everybody_has_are_deleted(world: World, receiver: Receiver) -> None:
    for number in range(5):
        world.done(f"a-{number:06d}")
        world.tell()
    assert len(world.lake.list("events/outbox")) == 1, "the last one says what was looked at"
    assert len(world.lake.list("events/leases")) == 1


def test_a_file_that_is_no_table_is_named_and_stops_nothing(world: World, receiver: Receiver) -> None:
    world.lake.write("runs/2026-03-01/broken.parquet", b"no Parquet")
    world.done("a-000000")
    world.tell()
    world.tell()
    assert receiver.shards() == ["a-000000"]
    (warning,) = world.warnings
    assert "runs/2026-03-01/broken.parquet is no file of the runs table" in warning


_PROGRAM = """
import sys
from datetime import timedelta
from pathlib import Path
from caption_assets_tests.events.world import World
world = World(Path(sys.argv[1]), [{"url": sys.argv[2], "allow_hosts": ["127.0.0.1"]}])
world.now += timedelta(minutes=1)
world.tell()
"""


def test_a_process_killed_between_request_and_its_record_delivers_again(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    for number in range(5):
        world.done(f"a-{number:06d}")
    process: list[subprocess.Popen[bytes]] = []
    there = threading.Event()

    def kill(delivery: Delivery) -> Status:
        there.wait(60)
        if delivery.event["data"]["shard"] == "a-000002":
            os.kill(process[0].pid, signal.SIGKILL)
            process[0].wait(30)
        return 204

    receiver.answer = kill
    process.append(subprocess.Popen([sys.executable, "-c", _PROGRAM, str(tmp_path), receiver.url()]))
    there.set()
    assert process[0].wait(90) == -signal.SIGKILL
    assert receiver.shards() == ["a-000000", "a-000001", "a-000002"]
    receiver.answer = lambda delivery: 204
    world.pass_(minutes=1)
    assert "another process is telling" in world.tell()[0], "for a while it might be alive"
    world.pass_(minutes=2)
    world.tell()
    after = receiver.shards()[3:]
    assert after[after.index("a-000002") :] == ["a-000002", "a-000003", "a-000004"]
    ids = {each.event["data"]["shard"]: each.event["id"] for each in receiver.requests}
    assert len(set(ids.values())) == 5
    assert all(ids[each.event["data"]["shard"]] == each.event["id"] for each in receiver.requests)
    bodies = {each.body for each in receiver.requests}
    assert len(bodies) == 5, "what comes again is the same, byte for byte"


def test_what_is_told_on_request_goes_to_those_who_ask(tmp_path: Path, receiver: Receiver) -> None:
    named = ["job.created", "job.started", "perspective.updated", "system.metrics"]
    world = World(tmp_path, [receiver.callback("/all"), receiver.callback("/named", events=named)])
    world.ended("run", "job.created", "a-000000")
    world.ended("run", "job.started", "a-000000")
    world.done("a-000000")
    world.ended("run", "job.succeeded", "a-000000")
    promote(world.lake, {"scene_count": "f" * 16})
    world.tell()
    assert receiver.types("/all") == ["shard.media", "job.succeeded"]
    assert sorted(receiver.types("/named")) == sorted(named)
    schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    for each in receiver.at("/named"):
        schema.validate(each.event)
    world.pass_(minutes=4)
    promote(world.lake, {"scene_count": "0" * 16})
    world.tell()
    (updated,) = [each.event["data"] for each in receiver.at("/named")[4:]]
    assert updated == {"perspective": "scene_count", "fingerprint": "0" * 16, "previous": "f" * 16}
    world.done("a-000000", "again", step="captions")
    world.pass_(minutes=2)
    world.tell()
    metrics = receiver.at("/named")[-1].event["data"]
    assert (metrics["totals"]["captions"], metrics["totals"]["pictures"]) == (3, 0), "since the last ones"
