"""Kafka out, over the real jobs: messages agree with the lake, once each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from caption_assets import demo
from caption_assets.config import load_config
from caption_assets.definitions import build_defs
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.sensors.alerts import ALERTS
from caption_assets.sensors.telling import build_telling_sensors
from caption_assets_tests.assets.running import PERSPECTIVES, Pipeline, answer, lend, write_config
from caption_assets_tests.kafka.broker import Broker
from caption_assets_tests.sensors.kafka_world import SHARDS, TOPICS, Told
from caption_assets_tests.support import ScriptedEngine, lent, reply


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


def test_alerts_and_failed_runs_are_logs(tmp_path: Path, pictures: Path, broker: Broker) -> None:
    limits = {"failure_share": 0.5, "min_pictures": 2, "breaker": False}
    options: dict[str, Any] = {"alerts": limits, "captions": {"max_failure_share": 1.0, "max_attempts": 9}}
    told = Told(tmp_path, pictures, broker, kafka={"topics": ["system.logs"]}, **options)
    told.tick()
    told.pipeline.ingest()
    early = told.pipeline.run("caption_job", SHARDS[0], select=["captions/scene_count"])
    assert not early.success
    told.script = lambda request: reply("no JSON") if "scene_count" in request.request_id else answer(request)
    told.pipeline.caption(SHARDS[0])
    told.evaluate(ALERTS)
    told.evaluate(ALERTS)
    told.tick()
    told.script = answer
    told.pipeline.caption(SHARDS[0], captions={"force": True})
    told.evaluate(ALERTS)
    told.tick()
    logs = [each.envelope for each in told.received("system.logs")]
    failed = [each["data"] for each in logs if each["data"]["level"] == "error"]
    assert [(each["event"], each["message"]) for each in failed] == [
        ("job.failed", f"__ASSET_JOB failed: no captions for {SHARDS[0]}")
    ]
    assert failed[0]["details"] == {"run_id": early.run_id, "job": "__ASSET_JOB"}
    alerts = [each for each in logs if each["data"]["level"] != "error"]
    about = {each["data"]["details"]["perspective"] for each in alerts}
    assert about == {"scene_count", "synthesized_caption"}
    for name in about:
        raised, resolved = sorted(
            (each for each in alerts if each["data"]["details"]["perspective"] == name),
            key=lambda each: str(each["occurred_at"]),
        )
        assert (raised["data"]["level"], resolved["data"]["level"]) == ("warning", "info")
        assert raised["key"] == resolved["key"] == raised["data"]["details"]["incident"]
        assert raised["data"]["message"].startswith(f"demo, {name}: 2 of 2 pictures failed")
    assert told.tick().endswith("nothing sent")


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


def test_without_kafka_there_are_no_sensors_and_nothing_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert build_telling_sensors(write_config(tmp_path, {"demo": {"path": str(tmp_path / "demo")}})) == []
