"""Kafka out and in, over the real jobs: messages agree with the lake, once each, whatever was away in between."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from jsonschema import Draft202012Validator

from caption_assets import demo
from caption_assets.captioning.rows import read_rows
from caption_assets.config import load_config
from caption_assets.definitions import build_defs
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.events.lease import LEASE, lease
from caption_assets.kafka.envelope import SCHEMA_FILE
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.media.stored import read_index
from caption_assets.resources import PipelineResource
from caption_assets.sensors.kafka import KAFKA_OUT, build_kafka_sensors
from caption_assets_tests.assets.running import ANSWERS, PERSPECTIVES, Pipeline, answer, lend, write_config
from caption_assets_tests.kafka.broker import UNKNOWN_TOPIC, Broker, Received, running
from caption_assets_tests.support import ScriptedEngine, bound_of, lent, reply

SHARDS = ["demo-000000", "demo-000001"]
TOPICS = [
    "media.processed", "captions.result", "captions.failed", "jobs.status", "jobs.created", "job_items.completed",
    "job_items.failed", "perspectives.updated", "system.metrics",
]  # fmt: skip


@pytest.fixture
def broker() -> Iterator[Broker]:
    with running() as cluster:
        yield cluster


@cache
def schema() -> Draft202012Validator:
    """The schema of all messages."""
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


Script = Callable[[EngineRequest], EngineReply | EngineFailure]


class Told:
    """Pictures, a pipeline over them that speaks to a cluster, and ticks of its sensors."""

    def __init__(
        self, home: Path, pictures: Path, broker: Broker, kafka: Mapping[str, Any] | None = None, **sections: Any
    ) -> None:
        (home / "demo").mkdir()
        self.broker, self.home = broker, home
        self.source = sorted(pictures.glob("scene*.png"))
        self.add(4)
        self.script: Script = answer
        datasets = {
            "demo": {"path": str(home / "demo"), "shard_size": 2, "settle_seconds": 0},
            "asked": {
                "kind": "kafka",
                "topic": "captions.request",
                "root": str(pictures),
                "watch": True,
                "max_wait_seconds": 0,
                "reply_topics": ["replies.*"],
            },
        }
        config = write_config(home, datasets, kafka={"brokers": [broker.address], **(kafka or {})}, **sections)
        engine = ScriptedEngine(lambda request: self.script(request))
        self.pipeline = Pipeline.of(config, lent(engine))

    def add(self, count: int) -> None:
        """Copy pictures into the folder."""
        start = len(list((self.home / "demo").iterdir()))
        for file in self.source[start : start + count]:
            shutil.copy(file, self.home / "demo")

    def evaluate(self, name: str) -> Any:
        """Evaluate a sensor as the daemon does."""
        context = dg.build_sensor_context(
            instance=self.pipeline.instance,
            definitions=self.pipeline.defs,
            resources={"pipeline": PipelineResource(config_file=str(self.pipeline.config.file))},
        )
        return self.pipeline.defs.resolve_sensor_def(name)(context)

    def tick(self) -> str:
        """Publish; what the sensor says."""
        result = self.evaluate(KAFKA_OUT)
        assert isinstance(result, dg.SkipReason)
        return str(result.skip_message)

    def arrive(self) -> list[str]:
        """Let the sensor of requests plan what came, and run what it asks for; returns the shards."""
        result = self.evaluate("arrivals_asked")
        if isinstance(result, dg.SkipReason):
            return []
        for request in result.dynamic_partitions_requests or []:
            self.pipeline.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        keys = [request.partition_key for request in result.run_requests]
        for key in keys:
            self.pipeline.caption(key)
        return keys

    def received(self, topic: str) -> list[Received]:
        """The messages of a topic, each as the schema wants it."""
        messages = self.broker.received(topic)
        for each in messages:
            schema().validate(each.envelope)
            assert each.key == each.envelope["key"].encode()
        return messages

    def everything(self) -> dict[str, list[str]]:
        """The ids of all messages, by topic."""
        return {topic: sorted(each.envelope["id"] for each in self.received(topic)) for topic in TOPICS}

    def agrees_with_lake(self) -> None:
        """Assert that pictures and captions of the lake are told once each, and nothing else is."""
        lake, bound = self.pipeline.lake, bound_of(self.pipeline.config)
        shards = [Shard.parse(key) for key in self.pipeline.shards]
        media = Counter((row["media_id"], row["uri"]) for shard in shards for row in read_index(lake, shard))
        told = self.received("media.processed")
        assert Counter((each.data["media_id"], each.data["uri"]) for each in told) == media
        rows = Counter(
            (name, shard.key, media_id, row["output_digest"])
            for shard in shards
            for name, each in bound.items()
            for media_id, row in read_rows(lake, each, shard).items()
        )
        results = [each for each in self.received("captions.result") if each.data["request"] is None]
        assert Counter(_row(each.data) for each in results) == rows


def _row(data: Any) -> tuple[str, str, str, str]:
    from caption_assets.captioning.rows import output_digest

    return data["perspective"], data["shard"], data["media_id"], output_digest(data["output"])


@pytest.fixture
def told(tmp_path: Path, pictures: Path, broker: Broker) -> Told:
    return Told(tmp_path, pictures, broker)


def test_all_that_happens_is_told_once_and_agrees_with_the_lake(told: Told) -> None:
    ingest = told.pipeline.ingest()
    run = told.pipeline.caption(*SHARDS)
    message = told.tick()
    assert "4 media.processed, 16 captions.result" in message
    told.agrees_with_lake()
    jobs = [each.data for each in told.received("jobs.status")]
    assert [(each["run_id"], each["status"]) for each in jobs if each["run_id"] == run.run_id] == [
        (run.run_id, status) for status in ("created", "started", "succeeded")
    ]
    created = {each.data["run_id"]: each.data for each in told.received("jobs.created")}
    assert created.keys() == {ingest.run_id, run.run_id}
    assert created[run.run_id]["partitions"] == {"count": 2, "first": SHARDS[0], "last": SHARDS[1]}
    items = [each.data for each in told.received("job_items.completed")]
    assert Counter((each["shard"], each["perspective"]) for each in items) == Counter(
        (shard, name) for shard in SHARDS for name in (None, *PERSPECTIVES)
    )
    assert {each["run_id"] for each in items} == {run.run_id}
    assert {each.data["perspective"]: each.data["previous"] for each in told.received("perspectives.updated")} == (
        dict.fromkeys(PERSPECTIVES)
    )
    (metrics,) = told.received("system.metrics")
    assert (metrics.data["totals"]["pictures"], metrics.data["totals"]["captions"]) == (4, 16)
    assert metrics.data["datasets"][1] == {"dataset": "demo", "shards": 2, "shards_with_media": 2}
    assert told.received("captions.failed") == told.received("job_items.failed") == []
    before = told.everything()
    assert told.tick() == "0 new events; kafka: nothing sent"
    assert told.everything() == before


def test_messages_of_a_picture_share_a_key_and_a_partition(told: Told) -> None:
    told.broker.create(*TOPICS, partitions=4)
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    told.tick()
    places: dict[bytes | None, set[int]] = {}
    for each in told.received("captions.result"):
        places.setdefault(each.key, set()).add(each.partition)
    assert len(places) == 4
    assert {len(each) for each in places.values()} == {1}


def test_failures_are_told_and_so_is_what_repairs_them(tmp_path: Path, pictures: Path, broker: Broker) -> None:
    told = Told(tmp_path, pictures, broker, captions={"max_failure_share": 1.0})
    (tmp_path / "demo" / told.source[1].name).write_bytes(b"no picture")

    def failing(request: EngineRequest) -> EngineReply | EngineFailure:
        return reply("no JSON") if "scene_count" in request.request_id else answer(request)

    told.script = failing
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.tick()
    failed = [each.data for each in told.received("captions.failed")]
    assert Counter((each["stage"], each["perspective"], each["kind"]) for each in failed) == Counter(
        [
            ("media", None, "not_an_image"),
            ("captions", "scene_count", "not_json"),
            ("captions", "synthesized_caption", "input_missing"),
        ]
    )
    assert Counter(each.data["perspective"] for each in told.received("job_items.failed")) == Counter(
        [None, "scene_count", "synthesized_caption"]
    )
    told.agrees_with_lake()
    told.script = answer
    assert told.pipeline.caption(SHARDS[0], captions={"force": True}).success
    told.tick()
    told.agrees_with_lake()


def test_an_hour_without_a_broker_loses_and_invents_nothing(told: Told, broker: Broker) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.tick()
    broker.go_down()
    told.pipeline.caption(SHARDS[1])
    assert "waiting: no broker of " in told.tick()
    told.add(2)
    told.pipeline.ingest()
    told.pipeline.caption("demo-000002")
    assert "waiting: no broker of " in told.tick()
    broker.come_up()
    assert "waiting" not in told.tick()
    told.agrees_with_lake()
    ids = [id_ for each in told.everything().values() for id_ in each]
    assert len(ids) == len(set(ids)), "nothing was told twice"
    assert "nothing sent" in told.tick()


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


def test_long_outputs_go_by_reference(tmp_path: Path, pictures: Path, broker: Broker) -> None:
    told = Told(tmp_path, pictures, broker, kafka={"max_inline_kb": 0.04, "topics": ["captions.result"]})
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.tick()
    results = [each.data for each in told.received("captions.result")]
    assert {each["perspective"]: each["output"] is None for each in results} == {
        name: name != "scene_count" for name in PERSPECTIVES
    }
    for each in results:
        assert Path(each["results"]["rows"]).is_dir()
    assert broker.received("jobs.status") == broker.received("media.processed") == [], "those topics were not asked for"


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


def test_without_kafka_there_are_no_sensors_and_nothing_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert build_kafka_sensors(write_config(tmp_path, {"demo": {"path": str(tmp_path / "demo")}})) == []


class Killed(BaseException):
    """As if the process had ended."""


def _die(*_: object) -> None:
    raise Killed


def _fail(*_: object) -> None:
    raise RuntimeError("killed here")


def test_two_publishers_take_turns_and_one_that_was_killed_holds_up_nobody_for_long(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    clock = [tables.now()]
    with lease(told.pipeline.lake, lambda: clock[0], layout.KAFKA_LEASES) as others_until:
        assert others_until is None
        assert told.tick().startswith("another process publishes, until ")
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


def test_an_edited_prompt_is_told_as_another_form(tmp_path: Path, pictures: Path, broker: Broker) -> None:
    told = Told(tmp_path, pictures, broker, kafka={"topics": ["captions.result", "perspectives.updated"]})
    told.pipeline.ingest()
    told.pipeline.caption(SHARDS[0])
    told.tick()
    before = {each.data["perspective"]: each.data["fingerprint"] for each in told.received("perspectives.updated")}
    document = yaml.safe_load(told.pipeline.config.file.read_text())
    own = tmp_path / "own"
    own.mkdir()
    file = next(Path(demo.__file__).parent.joinpath("perspectives").glob("scene_count.json"))
    perspective = json.loads(file.read_text())
    (own / file.name).write_text(json.dumps({**perspective, "prompt": "Count them. " + perspective["prompt"]}))
    document["perspectives"]["library"] = ["demo", "./own"]
    told.pipeline.config.file.write_text(yaml.safe_dump(document))
    told.pipeline = Pipeline(
        load_config(told.pipeline.config.file),
        told.pipeline.instance,
        build_defs(load_config(told.pipeline.config.file), {"vllm": lend(lent(ScriptedEngine(answer)))}),
    )
    told.pipeline.caption(SHARDS[0])
    told.tick()
    updates = [each.data for each in told.received("perspectives.updated")]
    changed = [each for each in updates if each["previous"]]
    assert {each["perspective"] for each in changed} == {"scene_count", "synthesized_caption"}
    assert {each["previous"] for each in changed} == {before["scene_count"], before["synthesized_caption"]}
    results = Counter((each.data["perspective"], each.data["fingerprint"]) for each in told.received("captions.result"))
    assert results == Counter(
        dict.fromkeys(before.items(), 2) | {(each["perspective"], each["fingerprint"]): 2 for each in changed}
    )
