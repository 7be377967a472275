"""Pictures, a pipeline over them that speaks to a Kafka cluster, and what its topics are to hold."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from jsonschema import Draft202012Validator

from caption_assets.captioning.rows import output_digest, read_rows
from caption_assets.config.kafka import Topic
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.kafka.envelope import SCHEMA_FILE
from caption_assets.lake.layout import Shard
from caption_assets.media.stored import read_index
from caption_assets.resources import PipelineResource
from caption_assets.sensors.telling import KAFKA_OUT
from caption_assets_tests.assets.running import Pipeline, answer, write_config
from caption_assets_tests.kafka.topics import Received, Topics
from caption_assets_tests.support import ScriptedEngine, bound_of, lent

SHARDS = ["demo-000000", "demo-000001"]
TOPICS: list[str] = list(get_args(Topic))
Script = Callable[[EngineRequest], EngineReply | EngineFailure]


@cache
def schema() -> Draft202012Validator:
    """The schema of all messages."""
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


class Told:
    """The pipeline, ticks of its sensors, and the topics of a cluster."""

    def __init__(
        self, home: Path, pictures: Path, topics: Topics, kafka: Mapping[str, Any] | None = None, **sections: Any
    ) -> None:
        (home / "demo").mkdir()
        self.topics, self.home = topics, home
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
        config = write_config(home, datasets, kafka={"brokers": [topics.address], **(kafka or {})}, **sections)
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
        messages = self.topics.received(topic)
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

    def agrees_with_runs(self) -> None:
        """Assert that what Dagster's runs did, and what the lake says of them, is told once each, in order."""
        ends = {dg.DagsterRunStatus.SUCCESS: "succeeded", dg.DagsterRunStatus.FAILURE: "failed"}
        runs = {run.run_id: ["created", "started", ends[run.status]] for run in self.pipeline.instance.get_runs()}
        told: dict[str, list[str]] = {}
        for each in self.received("jobs.status"):
            told.setdefault(each.data["run_id"], []).append(each.data["status"])
        assert told == runs
        assert sorted(each.data["run_id"] for each in self.received("jobs.created")) == sorted(runs)
        lake = self.pipeline.lake
        rows = [
            row
            for day in lake.list("runs")
            for name in lake.list(f"runs/{day}")
            for row in lake.read_table(f"runs/{day}/{name}").to_pylist()
        ]
        for topic, column in (("job_items.completed", "done"), ("job_items.failed", "failed")):
            did = Counter((row["run_id"], row["shard"], row["perspective"]) for row in rows if row[column])
            items = [each.data for each in self.received(topic)]
            assert Counter((each["run_id"], each["shard"], each["perspective"]) for each in items) == did


def _row(data: Any) -> tuple[str, str, str, str]:
    return data["perspective"], data["shard"], data["media_id"], output_digest(data["output"])
