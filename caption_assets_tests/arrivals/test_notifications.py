"""What a queue tells is planned at once; what it tells wrongly, late or twice does no harm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caption_assets.arrivals import queue as queue_module
from caption_assets.arrivals import scan
from caption_assets.arrivals.notices import Change, changes_in
from caption_assets.config import PipelineConfig
from caption_assets_tests.arrivals.aws import Aws, aws
from caption_assets_tests.arrivals.world import Watch

AWKWARD = ["a b+c.jpg", "図/é%20.jpg", "x=1&y.png"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Aws]:
    with aws() as cloud:
        yield cloud


class Told:
    """A bucket with a queue; the scan rests, so that what is found was told."""

    def __init__(self, cloud: Aws, home: Path, prefix: str = "") -> None:
        self.cloud, self.bucket, self.queue = cloud, cloud.bucket(), cloud.queue()
        notifications = {"sqs": {"queue": self.queue, "endpoint_url": cloud.url, "region": "us-east-1"}}
        url = f"s3://{self.bucket}{prefix}"
        self.watch = Watch(home, kind="bucket", url=url, options=cloud.options, notifications=notifications)
        self.watch.tick()
        self.watch.rest()

    def send(self, *documents: dict[str, Any] | str) -> None:
        for each in documents:
            self.cloud.send(self.queue, each if isinstance(each, str) else json.dumps(each))

    @property
    def keys(self) -> list[str]:
        return sorted(uri.removeprefix(f"s3://{self.bucket}/") for uri in self.watch.planned)


@pytest.fixture
def told(cloud: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(scan, "ENDS_SECONDS", -1e9)
    found = Told(cloud, tmp_path)
    monkeypatch.setattr(scan.Scan, "look_where_it_grows", lambda self: None)
    return found


def test_a_bucket_tells_of_what_comes_and_goes(told: Told) -> None:
    told.cloud.notify(told.bucket, told.queue)
    assert told.watch.tick().new_items == 0, "its test event"
    for key in AWKWARD:
        told.cloud.put(told.bucket, key)
    told.cloud.put(told.bucket, "a b+c.txt", b"hello")
    assert told.watch.tick().new_items == 3
    assert told.keys == sorted(AWKWARD)
    told.cloud.wait_until_empty(told.queue)
    told.cloud.s3.delete_object(Bucket=told.bucket, Key=AWKWARD[1])
    assert "marked as 1 gone" in told.watch.tick().notes
    assert told.watch.gone == {f"s3://{told.bucket}/{AWKWARD[1]}"}
    told.cloud.put(told.bucket, AWKWARD[1])
    assert "marked as 1 back" in told.watch.tick().notes
    told.cloud.put(told.bucket, AWKWARD[0], b"another")
    assert told.watch.tick().new_items == 1
    told.cloud.wait_until_empty(told.queue)


def test_sns_and_event_bridge_are_understood_and_strangers_ignored(told: Told) -> None:
    other = told.cloud.bucket()
    for bucket in (told.bucket, other):
        for key in ("a.jpg", "b c+.jpg", "d.jpg", "notes.md"):
            told.cloud.put(bucket, key)
    told.send(
        Aws.by_sns(Aws.created(told.bucket, "a.jpg")),
        Aws.by_event_bridge(told.bucket, "b c+.jpg"),
        Aws.by_sns(Aws.by_event_bridge(told.bucket, "d.jpg")),
        Aws.created(told.bucket, "notes.md"),
        Aws.created(told.bucket, "never-there.jpg"),
        Aws.created(other, "a.jpg"),
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": told.bucket},
    )
    outcome = told.watch.tick()
    assert told.keys == ["a.jpg", "b c+.jpg", "d.jpg"]
    assert [note.rpartition(" for")[0] for note in outcome.notes] == ["the scan rests"]
    told.cloud.wait_until_empty(told.queue)


def test_other_prefixes_are_ignored(cloud: Aws, tmp_path: Path) -> None:
    told = Told(cloud, tmp_path, "/in")
    for key in ("in/a.jpg", "input/b.jpg", "c.jpg"):
        cloud.put(told.bucket, key)
        told.send(Aws.created(told.bucket, key))
    told.watch.tick()
    assert told.keys == ["in/a.jpg"]


def test_poison_neither_blocks_nor_stays(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "HIDDEN_SECONDS", 0)
    monkeypatch.setattr(queue_module, "MOST", 1)
    told.cloud.put(told.bucket, "a.jpg")
    told.send("no JSON", "[]", '{"source": "aws.ec2", "detail": {}}', Aws.created(told.bucket, "a.jpg"))
    outcome = told.watch.tick()
    assert told.keys == ["a.jpg"]
    assert "3 messages of the queue could not be understood" in outcome.notes
    for _ in range(5):
        told.watch.tick()
    told.cloud.wait_until_empty(told.queue)


def test_a_message_that_comes_twice_or_late_plans_nothing_twice(told: Told) -> None:
    told.cloud.put(told.bucket, "a.jpg")
    told.send(*[Aws.created(told.bucket, "a.jpg")] * 3)
    told.watch.tick()
    told.send(Aws.created(told.bucket, "a.jpg"), Aws.created(told.bucket, "a.jpg", "ObjectRemoved:Delete"))
    told.watch.tick()
    assert told.watch.planned.total() == 1
    assert not told.watch.gone, "it is there, whatever a late message says"


def test_messages_stay_until_what_they_tell_is_durable(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.cloud.put(told.bucket, "a.jpg")
    told.send(Aws.created(told.bucket, "a.jpg"))

    def broken(self: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("caption_assets.sources.planner.Planner.close", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            told.watch.tick()
    assert told.cloud.left(told.queue) == 1


def test_a_queue_that_is_away_leaves_the_scan(cloud: Aws, tmp_path: Path) -> None:
    told = Told(cloud, tmp_path)
    cloud.sqs.delete_queue(QueueUrl=told.queue)
    cloud.put(told.bucket, "a.jpg")
    told.watch.cursor = None
    outcome = told.watch.tick()
    assert outcome.new_items == 1
    assert "the queue cannot be used" in outcome.notes[0]
    assert outcome.notes[0].endswith("the scan goes on")


def test_the_scan_rests_where_a_queue_tells(cloud: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(cloud, tmp_path)
    monkeypatch.setattr(scan.Scan, "look_where_it_grows", lambda self: None)
    cloud.put(told.bucket, "a.jpg")
    monkeypatch.setattr(scan, "SCAN_SECONDS", 0.0)  # each round is a long one
    told.watch.rest(0)
    told.watch.until_quiet()
    assert told.watch.tick().notes == ["the scan rests for 870 s"]
    cloud.sqs.delete_queue(QueueUrl=told.queue)
    told.watch.rest(0)
    told.watch.until_quiet()
    cloud.put(told.bucket, "b.jpg")
    assert told.watch.tick().new_items == 1, "the scan goes on at once"


def test_an_empty_queue_is_asked_for_a_moment_only(told: Told) -> None:
    started = time.monotonic()
    told.watch.tick()
    assert time.monotonic() - started < 10


def test_a_key_is_escaped_in_the_bucket_s_own_form_only() -> None:
    (change,) = changes_in(json.dumps(Aws.created("b", "a b+c/ü.jpg")))
    assert change == Change("b", "a b+c/ü.jpg")
    (change,) = changes_in(json.dumps(Aws.by_event_bridge("b", "a+b.jpg")))
    assert change.uri == "s3://b/a+b.jpg"


@pytest.mark.parametrize(
    "body", ["", "1", "null", "[]", "{}", '{"Records": [1]}', '{"Type": "Notification", "Message": "x"}']
)
def test_what_is_no_message_of_s3(body: str) -> None:
    with pytest.raises(ValueError, match=r"not a message|JSON|Expecting"):
        changes_in(body)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"url": "gs://b", "notifications": {"sqs": {"queue": "https://q"}}}, "only buckets on S3 notify by SQS"),
        (
            {"url": "s3://b", "notifications": {"sqs": {"queue": "arn:aws:sqs"}}},
            "sqs.queue: 'arn:aws:sqs' is not",
        ),
        ({"url": "s3://b", "notifications": {"sqs": {}}}, "sqs.queue: is missing"),
        ({"url": "s3://b", "notifications": {"sns": {}}}, "sns: unknown key"),
        ({"url": "s3://b", "recursive": False, "notifications": {"sqs": {"queue": "https://q"}}}, "recursive: true"),
        ({"url": "s3://b", "max_wait_seconds": 7200}, "max_wait_seconds"),
    ],
)
def test_mistakes_in_the_pipeline_file(
    make_config: Callable[..., PipelineConfig], entry: dict[str, object], message: str
) -> None:
    with pytest.raises(Exception, match=r"datasets\.d") as caught:
        make_config(datasets={"d": {"kind": "bucket", **entry}})
    assert message in str(caught.value)
