"""Datasets of kind `kafka`: each message is planned once, whatever dies, and no offset is committed before its plan."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from caption_assets.config import PipelineConfig
from caption_assets.kafka.client import KafkaAway
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.planner import Planned, open_source, plan_dataset, read_plan
from caption_assets_tests.assets.running import write_config
from caption_assets_tests.kafka.broker import UNKNOWN_TOPIC, Broker, running

TOPIC = "media.uploaded"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Broker]:
    with running() as broker:
        yield broker


def uploaded(uri: str, id_: str = "1", **data: Any) -> dict[str, Any]:
    """A message of an upload."""
    return {"version": 1, "id": id_, "type": "media.uploaded", "data": {"uri": uri, **data}}


def request(uri: str, id_: str = "1", **data: Any) -> dict[str, Any]:
    """A message that wants captions."""
    return {"version": 1, "id": id_, "type": "captions.request", "data": {"uri": uri, **data}}


class Uploads:
    """A dataset over a topic of its own, and pictures below its root."""

    def __init__(self, home: Path, pictures: Path, broker: Broker, topic: str, **options: Any) -> None:
        self.broker, self.topic, self.home = broker, topic, home
        self.names = [file.name for file in sorted(pictures.glob("scene*.png"))]
        section = {
            "kind": "kafka",
            "topic": topic,
            "brokers": [broker.address],
            "root": str(pictures),
            "shard_size": 3,
            "max_wait_seconds": 3600,
            **options,
        }
        self.config: PipelineConfig = write_config(home, {"up": section})
        self.lake = Lake(self.config.lake)

    def plan(self, *, settle: bool = True) -> Planned:
        """Plan what is new, as a process that has just started does."""
        source = open_source(self.config, "up", settle=settle)
        return plan_dataset(self.lake, "up", source, self.config.datasets["up"].shard_size)

    def items(self) -> list[Item]:
        """All that is planned."""
        names = self.lake.list(layout.plan_folder("up"))
        return [item for name in names for item in read_plan(self.lake, Shard.parse(name.removesuffix(".parquet")))]

    def planned(self) -> list[str]:
        """The names of what is planned."""
        return [Path(item.uri).name for item in self.items()]

    def send(self, *values: object, **options: Any) -> None:
        """Write messages."""
        self.broker.send(self.topic, *values, **options)

    def upload(self, *numbers: int, **options: Any) -> None:
        """Tell of pictures."""
        self.send(*(uploaded(self.names[number]) for number in numbers), **options)

    def committed(self) -> list[int]:
        """Of both partitions, the next offset; 0 where none is committed."""
        return [max(each, 0) for each in self.broker.committed(self.topic)]


@pytest.fixture
def uploads(tmp_path: Path, pictures: Path, cluster: Broker, request: pytest.FixtureRequest) -> Uploads:
    topic = request.node.name.replace("[", ".").replace("]", "")[:200]
    cluster.create(topic)
    return Uploads(tmp_path, pictures, cluster, topic)


def test_full_shards_are_planned_and_the_rest_waits_without_a_commit(uploads: Uploads) -> None:
    uploads.upload(0, 1, 2, 3)
    planned = uploads.plan()
    assert (len(planned.new_shards), planned.new_items, planned.notes) == (1, 3, [])
    assert uploads.committed() == [3, 0]
    assert uploads.plan().new_items == 0
    uploads.upload(4, 5, partition=1)
    assert uploads.plan().new_items == 3
    assert uploads.committed() == [4, 2]
    assert sorted(uploads.planned()) == uploads.names[:6]
    source = open_source(uploads.config, "up")
    for item in uploads.items():
        assert source.fetch(item.uri, item.etag) == Path(item.uri).read_bytes()


def test_an_old_message_closes_a_shard_and_so_does_one_from_the_future(uploads: Uploads) -> None:
    now = int(time.time() * 1000)
    uploads.upload(0, at=now - 3_601_000)
    uploads.upload(1)
    assert uploads.plan().new_items == 2
    uploads.upload(2, at=now + 10_000_000)
    assert uploads.plan().new_items == 1
    uploads.upload(4, at=10**17)
    assert uploads.plan().new_items == 1, "a time that no calendar has"
    uploads.upload(3)
    assert uploads.plan().new_items == 0
    assert uploads.plan(settle=False).new_items == 1, "whoever plans by hand wants all of it"
    assert uploads.committed() == [5, 0]


def test_what_comes_twice_is_planned_once(uploads: Uploads) -> None:
    uploads.upload(0, 0, 1, 0)
    uploads.upload(0, 1, partition=1)
    assert uploads.plan(settle=False).new_items == 2
    uploads.upload(1, 0)
    assert uploads.plan(settle=False).new_items == 0
    assert uploads.committed() == [6, 2]
    uploads.send(uploaded(uploads.names[0], etag="v2"), uploaded(uploads.names[0], etag="v2", source={"title": "t"}))
    assert uploads.plan(settle=False).new_items == 1, "another version is another picture, whatever else is said of it"


def test_a_planner_that_dies_before_the_commit_loses_and_doubles_nothing(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads.upload(0, 1, 2, 3)
    with monkeypatch.context() as patched:
        patched.setattr("caption_assets.sources.kafka.KafkaSource.planned", _die)
        with pytest.raises(Killed):
            uploads.plan(settle=False)
    assert uploads.committed() == [0, 0]
    assert uploads.planned() == uploads.names[:4]
    assert uploads.plan(settle=False).new_items == 0
    assert (uploads.committed(), uploads.planned()) == ([4, 0], uploads.names[:4])


def test_two_planners_at_once_plan_each_message_once(uploads: Uploads) -> None:
    uploads.upload(*range(6))
    uploads.upload(*range(6, 10), partition=1)
    first, second = (open_source(uploads.config, "up") for _ in range(2))
    rows = first.scan()
    next(rows)  # the first has read, the second plans and commits, the first goes on
    plan_dataset(uploads.lake, "up", second, 3)
    remembered = [*rows]
    assert len(remembered) == 9
    uploads.upload(10)
    plan_dataset(uploads.lake, "up", first, 3)
    assert sorted(uploads.planned()) == uploads.names[:11]
    assert uploads.committed() == [7, 4]


def test_poison_is_counted_named_and_sent_aside(tmp_path: Path, pictures: Path, cluster: Broker) -> None:
    cluster.create("poison", "dead")
    uploads = Uploads(tmp_path, pictures, cluster, "poison", dead_letters="dead", max_message_kb=1)
    bad: list[tuple[object, str]] = [
        (b"", "the message is empty"),
        (b"{", "the message is no JSON"),
        (b"[1]", "the message is no JSON object"),
        (b'{"a": NaN}', "the message is no JSON"),
        (b"[" * 1000, "the message is no JSON"),
        (b'{"version": 1, "id": "\\ud800"}', "the message is no JSON"),
        (b"x" * 2000, "the message has 2000 bytes, and 1024 are allowed"),
        ({"type": "captions.result"}, "type 'captions.result' is none of media.uploaded, captions.request"),
        ({**uploaded("a.png"), "version": 2}, "version: 1 was expected"),
        (uploaded("a.png", size=-1), "data.size: -1 is less than the minimum of 0"),
        ({"version": 1, "id": "1", "type": "media.uploaded", "data": {}}, "data: {} is not valid under any"),
        (uploaded("a.png", size=10**30), "data.size: 1000000000000000000000000000000 is greater than the maximum"),
        (b'{"version": 1e999}', "the message is no JSON"),
        (uploaded("../secret.png"), "data.uri leads out of the root"),
        (uploaded("/etc/passwd"), "data.uri leads out of the root"),
        (uploaded("file:///etc/passwd"), "data.uri is a URL outside of the root"),
        (uploaded("s3://bucket/key"), "data.uri is a URL outside of the root"),
    ]
    uploads.upload(0)
    uploads.send(*(value for value, _ in bad))
    uploads.upload(1)
    planned = uploads.plan(settle=False)
    assert planned.new_items == len(bad) + 2
    assert planned.notes[0].startswith(f"{len(bad)} messages cannot be understood: 0/1: the message is empty; ")
    assert uploads.committed() == [len(bad) + 2, 0]
    source = open_source(uploads.config, "up")
    reasons = []
    for item in uploads.items():
        if item.uri.startswith("kafka://poison/0/"):
            with pytest.raises(FetchError) as caught:
                source.fetch(item.uri, item.etag)
            assert caught.value.kind == "bad_row"
            reasons.append(str(caught.value))
    for reason, (_, expected) in zip(reasons, bad, strict=True):
        assert reason.startswith(expected)
    letters = cluster.received("dead")
    assert sorted(each.value for each in letters) == sorted(
        value if isinstance(value, bytes) else json.dumps(value).encode() for value, _ in bad
    )
    assert {each.headers["offset"] for each in letters} == {str(number) for number in range(1, len(bad) + 1)}
    assert (
        next(each for each in letters if each.value == b"{").headers["reason"]
        == "the message is no JSON (JSONDecodeError)"
    )


def test_each_request_is_an_item_that_remembers_who_asked(uploads: Uploads) -> None:
    asking = {"perspectives": ["scene_count"], "correlation_id": "c-1", "source": {"title": "t"}}
    uploads.send(request(uploads.names[0], "a", **asking), request(uploads.names[0], "b"))
    uploads.send(request(uploads.names[0], "a", **asking))
    assert uploads.plan(settle=False).new_items == 2
    first, second = uploads.items()
    assert first.source["title"] == "t"
    assert first.source["kafka"]["request"] == {
        "id": "a", "correlation_id": "c-1", "perspectives": ["scene_count"], "reply_topic": None,
    }  # fmt: skip
    assert second.source["kafka"]["request"]["perspectives"] is None


def test_a_request_that_cannot_be_met_is_answered_at_once(tmp_path: Path, pictures: Path, cluster: Broker) -> None:
    cluster.create("asked", "replies.one")
    uploads = Uploads(tmp_path, pictures, cluster, "asked", reply_topics=["replies.*"])
    name = uploads.names[0]
    uploads.send(
        request(name, "a", perspectives=["scene_count", "absent"], reply_topic="replies.one", correlation_id="c-1"),
        request(name, "b", reply_topic="__consumer_offsets"),
        request(name, "c", reply_topic="replies.one"),
        request(name, "d", reply_topic="replies.no topic"),
    )
    planned = uploads.plan(settle=False)
    assert planned.new_items == 1
    assert planned.notes == [
        "request 'a' is refused: there is no perspective 'absent' enabled",
        "request 'b' is refused: replies may not go to '__consumer_offsets'; nobody is told",
        "request 'd' is refused: replies may not go to 'replies.no topic'; nobody is told",
    ]
    (reply,) = cluster.received("replies.one")
    assert (reply.envelope["type"], reply.data["stage"], reply.data["kind"]) == (
        "captions.failed", "request", "unknown_perspective",
    )  # fmt: skip
    assert reply.data["request"] == {"id": "a", "correlation_id": "c-1"}
    assert uploads.committed() == [4, 0]


def test_an_absent_topic_and_brokers_that_are_away_are_named(uploads: Uploads, cluster: Broker) -> None:
    cluster.refuse(uploads.topic, UNKNOWN_TOPIC)
    with pytest.raises(KafkaAway, match=r"there is no topic .*; create it, or correct datasets\.up\.topic"):
        uploads.plan()
    cluster.refuse(uploads.topic, 0)
    uploads.upload(0, 1, 2)
    cluster.go_down()
    try:
        with pytest.raises(KafkaAway, match=r"no broker of 127\.0\.0\.1:[0-9]+ answers"):
            uploads.plan()
    finally:
        cluster.come_up()
    assert uploads.plan().new_items == 3


def test_a_commit_that_fails_is_told_and_made_good(uploads: Uploads, cluster: Broker) -> None:
    uploads.upload(0, 1, 2)
    source = open_source(uploads.config, "up")
    items = [*source.scan()]
    assert len(items) == 3
    cluster.go_down()
    try:
        (note,) = source.planned([])  # type: ignore[attr-defined]
    finally:
        cluster.come_up()
    assert note.startswith("nothing is committed, so the same messages are read again")
    assert uploads.plan().new_items == 3
    assert uploads.committed() == [3, 0]


class Killed(BaseException):
    """As if the process had ended."""


def test_a_stranger_in_the_group_keeps_nothing_from_being_planned(
    tmp_path: Path, pictures: Path, cluster: Broker
) -> None:
    cluster.create("shared")
    uploads = Uploads(tmp_path, pictures, cluster, "shared", group="shared")
    uploads.upload(0, 1, 2)
    with closing(Consumer({"bootstrap.servers": cluster.address, "group.id": "shared"})) as stranger:
        stranger.subscribe(["shared"])
        deadline = time.monotonic() + 30
        while not stranger.assignment() and time.monotonic() < deadline:
            stranger.poll(0.1)
        assert stranger.assignment()
        planned = uploads.plan()
        assert planned.new_items == 3
        (note,) = planned.notes
        assert note.startswith("nothing is committed, so the same messages are read again: ")
    uploads.upload(3, 4, 5)  # after a rebalance
    assert uploads.plan().new_items == 3
    assert sorted(uploads.planned()) == uploads.names[:6]


def test_a_topic_made_anew_is_read_from_its_beginning(tmp_path: Path, pictures: Path, cluster: Broker) -> None:
    cluster.create("anew")
    uploads = Uploads(tmp_path, pictures, cluster, "anew", shard_size=1, group="anew")
    uploads.upload(0)
    with closing(Consumer({"bootstrap.servers": cluster.address, "group.id": "anew"})) as earlier:
        earlier.commit(offsets=[TopicPartition("anew", 0, 1000)], asynchronous=False)  # of another topic of this name
    planned = uploads.plan()
    assert (planned.new_items, planned.notes) == (1, ["anew/0 was made anew: it is read from its beginning"])
    assert cluster.committed("anew", "anew")[0] == 1
    assert uploads.plan().notes == []


def _die(*_: object) -> None:
    raise Killed
