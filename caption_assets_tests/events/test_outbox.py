"""The outbox: what was found is found once, whoever looks at the same time, on a folder and on a bucket."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import s3fs

from caption_assets.events.lease import LEASE, lease
from caption_assets.events.outbox import Outbox
from caption_assets_tests.events.receiver import Receiver
from caption_assets_tests.events.world import World
from caption_assets_tests.sources.servers import s3_server


def outbox(world: World) -> Outbox:
    """As a process finds it that has just started."""
    return Outbox(world.lake, lambda: world.now, world.warnings.append)


def test_of_two_that_look_at_once_one_counts(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    world.done("a-000000")
    first, second = outbox(world), outbox(world)
    assert first.collect(world.config, []) == 1
    assert second.collect(world.config, []) == 0
    events = [event for batch in outbox(world).batches(1) for event in batch.events]
    assert [event.data["shard"] for event in events] == ["a-000000"]


def test_of_many_rounds_at_once_each_event_is_told_once(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    for number in range(20):
        world.done(f"a-{number:06d}")
    barrier, told = threading.Barrier(4), []

    def tell() -> None:
        barrier.wait(30)
        told.append(world.tell()[0])

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == 4
    assert receiver.shards() == [f"a-{number:06d}" for number in range(20)]


def test_a_lease_ends_by_itself(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    held = lease(world.lake, lambda: world.now)
    assert held.__enter__() is None
    with lease(world.lake, lambda: world.now) as until:
        assert until == world.now + LEASE
    world.now += LEASE + timedelta(seconds=1)
    with lease(world.lake, lambda: world.now) as until:
        assert until is None
        with lease(world.lake, lambda: world.now) as again:
            assert again is not None


def test_an_outbox_made_anew_in_the_same_place_is_another_one(tmp_path: Path, receiver: Receiver) -> None:
    world = World(tmp_path, [receiver.callback()])
    world.done("a-000000")
    world.tell()
    world.lake.remove_folder("events")
    world.lake.remove_folder("runs")
    world.done("a-000001")
    world.tell()
    assert receiver.shards() == ["a-000000", "a-000001"]


def test_on_a_bucket(tmp_path: Path, receiver: Receiver) -> None:
    with s3_server():
        s3fs.S3FileSystem().mkdir("captions")
        world = World(tmp_path, [receiver.callback()], "s3://captions/lake")
        world.done("a-000000")
        world.done("a-000000", step="captions")
        receiver.answer = lambda delivery: 500
        world.tell()
        receiver.answer = lambda delivery: 204
        world.pass_(minutes=1)
        world.tell()
        world.tell()
        assert receiver.types() == ["shard.media", "shard.media", "shard.captions"]
        rows = receiver.requests[-1].event["data"]["perspectives"][0]["results"]["rows"]
        assert rows.startswith("s3://captions/lake/captions/perspective=scene_count/")
        assert len(world.lake.list("events/outbox")) == 1
