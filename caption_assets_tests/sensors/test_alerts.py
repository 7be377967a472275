"""`alerts`: an incident is raised once and resolved once, in the UI's checks and at a receiver."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from jsonschema import Draft202012Validator

from caption_assets.assets.alerts import arrivals_key, build_alert_checks, build_arrival_specs
from caption_assets.assets.catalog import CATALOG
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.events.alerts import AlertWatch
from caption_assets.events.event import SCHEMA_FILE
from caption_assets.lake import layout, tables
from caption_assets.lake.status import NOTHING_KNOWN
from caption_assets.lake.store import Lake
from caption_assets.resources import PipelineResource
from caption_assets.sensors.alerts import ALERTS, build_alert_sensors
from caption_assets.sensors.telling import CALLBACKS
from caption_assets_tests.assets.running import Pipeline, answer, write_config
from caption_assets_tests.events.receiver import Receiver
from caption_assets_tests.support import ScriptedEngine, lent

SHARD = "demo-000000"


class Watched:
    """Pictures, a pipeline over them with limits, its two sensors, and an engine that can be told to fail."""

    def __init__(self, home: Path, pictures: Path, receiver: Receiver, alerts: dict[str, Any], **sections: Any) -> None:
        (home / "demo").mkdir()
        self.home, self.receiver, self.cursor, self.broken = home, receiver, "", False
        for file in sorted(pictures.glob("scene*"))[:4]:
            shutil.copy(file, home / "demo")
        config = write_config(
            home,
            {"demo": {"path": str(home / "demo"), "shard_size": 4, "settle_seconds": 0}},
            callbacks=[receiver.callback()],
            alerts=alerts,
            **sections,
        )
        self.pipeline = Pipeline.of(config, lent(ScriptedEngine(self._answer)))
        self.tell()

    def _answer(self, request: EngineRequest) -> EngineReply | EngineFailure:
        if self.broken and "scene_count" in request.request_id:
            return EngineFailure("engine", "on purpose", retryable=True)
        return answer(request)

    def look(self) -> dg.SensorResult:
        """A tick of `alerts`; its events get into the instance as the daemon puts them there."""
        result: Any = self._tick(ALERTS, self.cursor)
        self.cursor = result.cursor
        for event in result.asset_events:
            self.pipeline.instance.report_runless_asset_event(event)
        assert isinstance(result, dg.SensorResult)
        return result

    def tell(self) -> None:
        """A tick of `callbacks`."""
        self._tick(CALLBACKS, None)

    def alerts(self) -> list[tuple[str, str]]:
        """Type and state of the alerts that the receiver has, in order; all are valid."""
        events = [each.event for each in self.receiver.requests if each.event["type"].startswith("alert.")]
        schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
        for event in events:
            schema.validate(event)
        return [(event["type"], event["data"]["state"]) for event in events]

    def data(self) -> dict[str, Any]:
        """What the last alert says."""
        alerts = [each.event["data"] for each in self.receiver.requests if each.event["type"].startswith("alert.")]
        data: dict[str, Any] = alerts[-1]
        return data

    def check(self, asset: dg.AssetKey, name: str) -> bool:
        """Whether a check passes, as the UI has it."""
        (record,) = self.pipeline.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(asset, name), limit=1
        )
        assert record.event is not None
        evaluation = record.event.get_dagster_event().event_specific_data
        assert isinstance(evaluation, dg.AssetCheckEvaluation)
        return evaluation.passed

    def _tick(self, sensor: str, cursor: str | None) -> Any:
        context = dg.build_sensor_context(
            instance=self.pipeline.instance,
            cursor=cursor,
            definitions=self.pipeline.defs,
            resources={"pipeline": PipelineResource(config_file=str(self.pipeline.config.file))},
        )
        return self.pipeline.defs.resolve_sensor_def(sensor)(context)


def test_a_breaker_is_an_incident_until_its_shard_is_done(tmp_path: Path, pictures: Path, receiver: Receiver) -> None:
    watched = Watched(tmp_path, pictures, receiver, {}, captions={"breaker_after": 2, "max_failure_share": 0.1})
    watched.pipeline.ingest()
    watched.look()
    assert watched.check(CATALOG, "breaker")
    watched.broken = True
    assert not watched.pipeline.caption(SHARD).success
    for _ in range(3):
        watched.look()
        watched.tell()
    assert watched.alerts() == [("alert.breaker", "raised")]
    assert "captions.max_failure_share" in watched.data()["summary"]
    assert not watched.check(CATALOG, "breaker")
    watched.broken = False
    assert watched.pipeline.caption(SHARD).success
    for _ in range(3):
        watched.look()
        watched.tell()
    assert watched.alerts() == [("alert.breaker", "raised"), ("alert.breaker", "resolved")]
    assert watched.check(CATALOG, "breaker")
    raised, resolved = [each.event for each in receiver.requests if each.event["type"] == "alert.breaker"]
    assert raised["datasets"] == resolved["datasets"] == ["demo"]
    assert raised["data"]["incident"] == resolved["data"]["incident"]
    assert "max_failure_share" in raised["data"]["summary"]


def test_failures_above_their_share(tmp_path: Path, pictures: Path, receiver: Receiver) -> None:
    limits = {"failure_share": 0.5, "min_pictures": 4, "breaker": False}
    watched = Watched(tmp_path, pictures, receiver, limits, captions={"max_failure_share": 1.0, "max_attempts": 9})
    watched.pipeline.ingest()
    watched.broken = True
    watched.pipeline.caption(SHARD)
    assert len(list(watched.look().asset_events)) == 1
    assert list(watched.look().asset_events) == [], "the UI is told of changes only"
    watched.tell()
    events = [each.event for each in receiver.requests if each.event["type"] == "alert.failures"]
    told = {event["data"]["perspective"]: event["data"] for event in events}
    assert told.keys() == {"scene_count", "synthesized_caption"}, "what reads the other one fails with it"
    assert (told["scene_count"]["value"], told["scene_count"]["limit"]) == (1.0, 0.5)
    assert told["scene_count"]["summary"] == "demo, scene_count: 4 of 4 pictures failed (engine: 4)"
    assert not watched.check(CATALOG, "failure_share")
    watched.broken = False
    watched.pipeline.caption(SHARD)
    watched.look()
    watched.tell()
    assert watched.alerts() == 2 * [("alert.failures", "raised")] + 2 * [("alert.failures", "resolved")]
    assert watched.check(CATALOG, "failure_share")


def test_a_run_that_waits_too_long(tmp_path: Path, pictures: Path, receiver: Receiver) -> None:
    watched = Watched(tmp_path, pictures, receiver, {"queue_minutes": 1e-6})
    watched.pipeline.ingest()
    instance = watched.pipeline.instance
    job = watched.pipeline.defs.resolve_job_def("caption_job")
    run = instance.create_run_for_job(job, tags={"dagster/partition": SHARD})
    watched.look()
    watched.tell()
    assert watched.alerts() == [("alert.queue", "raised")]
    assert watched.data()["limit"] == 1e-6
    assert watched.data()["value"] is not None
    assert re.match(r"a run waits since \d{4}-\d\d-\d\d \d\d:\d\d UTC", watched.data()["summary"])
    assert list(watched.look().asset_events) == [], "what is told stays true while it waits"
    another = instance.create_run_for_job(job, tags={"dagster/partition": SHARD})
    (told,) = watched.look().asset_events
    assert isinstance(told, dg.AssetCheckEvaluation)
    assert told.description
    assert told.description.startswith("2 runs wait, the oldest since ")
    instance.report_run_canceled(run)
    instance.report_run_canceled(another)
    watched.look()
    watched.tell()
    assert watched.alerts() == [("alert.queue", "raised"), ("alert.queue", "resolved")]


def test_arrivals_are_seen_in_the_ui_and_late_ones_told(tmp_path: Path, pictures: Path, receiver: Receiver) -> None:
    watched = Watched(tmp_path, pictures, receiver, {"arrivals": {"demo": {"within_hours": 2}}})
    assert [type(event).__name__ for event in watched.look().asset_events] == 2 * ["AssetCheckEvaluation"]
    watched.pipeline.ingest()
    (arrived,) = watched.look().asset_events
    assert isinstance(arrived, dg.AssetMaterialization)
    assert arrived.asset_key == arrivals_key("demo")
    assert list(watched.look().asset_events) == []
    watched.cursor = "nonsense"
    assert len(list(watched.look().asset_events)) == 3, "without its cursor the UI is told once more"
    assert watched.check(arrivals_key("demo"), "arrivals")
    assert watched.alerts() == []
    (spec,) = build_arrival_specs(watched.pipeline.config)
    assert isinstance(spec.freshness_policy, dg.FreshnessPolicy)


def config_of(folder: Path, receiver: Receiver | None = None) -> PipelineConfig:
    """A dataset that is expected to deliver every two hours."""
    (folder / "demo").mkdir()
    return write_config(
        folder,
        {"demo": {"path": str(folder / "demo"), "settle_seconds": 0}},
        alerts={"arrivals": {"demo": {"within_hours": 2}}},
        **({"callbacks": [receiver.callback()]} if receiver else {}),
    )


def test_late_arrivals_by_the_clock(tmp_path: Path, pictures: Path) -> None:
    config = config_of(tmp_path)
    lake, now = Lake(config.lake), tables.now()

    def look(hours: float) -> tuple[int, int, int]:
        found = AlertWatch(config, lake, lambda: now + timedelta(hours=hours), print).watch(NOTHING_KNOWN)
        return len(found.conditions), found.raised, found.resolved

    assert look(0) == (0, 0, 0), "what never came is not late at once"
    assert look(1.9) == (0, 0, 0)
    assert look(2.1) == (1, 1, 0)
    assert look(5.0) == (1, 0, 0)
    shutil.copy(next(pictures.glob("scene*")), tmp_path / "demo")
    Pipeline.of(config).ingest()
    assert look(1.0) == (0, 0, 1)
    assert look(1.5) == (0, 0, 0)
    assert look(2.2) == (1, 1, 0)


def test_a_look_that_dies_after_it_told_tells_the_same_event_again(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, receiver)
    pipeline, now = Pipeline.of(config), tables.now()
    context: Any = dg.build_sensor_context(
        instance=pipeline.instance,
        definitions=pipeline.defs,
        resources={"pipeline": PipelineResource(config_file=str(config.file))},
    )
    pipeline.defs.resolve_sensor_def(CALLBACKS)(context)
    write, saved = Lake.write, []

    def dying(self: Lake, relative: str, data: bytes) -> None:
        if relative == layout.ALERTS:
            saved.append(relative)
            if len(saved) == 3:
                raise KeyboardInterrupt
        write(self, relative, data)

    AlertWatch(config, Lake(config.lake), lambda: now, print).watch(NOTHING_KNOWN)
    later = now + timedelta(hours=3)
    saved.append("the first look's")
    monkeypatch.setattr(Lake, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        AlertWatch(config, Lake(config.lake), lambda: later, print).watch(NOTHING_KNOWN)
    monkeypatch.undo()
    AlertWatch(config, Lake(config.lake), lambda: later, print).watch(NOTHING_KNOWN)
    AlertWatch(config, Lake(config.lake), lambda: later, print).watch(NOTHING_KNOWN)
    batches = [json.loads(Lake(config.lake).read(layout.outbox_file(number)))["events"] for number in (2, 3)]
    assert [len(each) for each in batches] == [1, 1]
    assert batches[0][0]["id"] == batches[1][0]["id"]
    assert Lake(config.lake).list(layout.OUTBOX)[-1] == "000000000003.json"
    pipeline.defs.resolve_sensor_def(CALLBACKS)(context)
    assert {each.event["type"] for each in receiver.requests} == {"alert.arrivals"}


def test_without_the_section_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    config = write_config(tmp_path, {"demo": {"path": str(tmp_path / "demo")}})
    assert build_alert_sensors(config) == []
    assert build_alert_checks(config) == []
    assert build_arrival_specs(config) == []


def test_the_checks_can_be_executed_by_hand_and_are_in_no_job(
    tmp_path: Path, pictures: Path, receiver: Receiver
) -> None:
    limits = {"failure_share": 0.5, "min_pictures": 1, "queue_minutes": 60, "arrivals": {"demo": {"within_hours": 2}}}
    watched = Watched(tmp_path, pictures, receiver, limits, captions={"max_failure_share": 1.0})
    watched.pipeline.ingest()
    watched.broken = True
    outcome = watched.pipeline.caption(SHARD)
    assert {check.asset for check in outcome.checks}.isdisjoint({"catalog", "arrivals/demo"})
    checks = build_alert_checks(watched.pipeline.config)
    result = dg.materialize(
        [*checks],
        instance=watched.pipeline.instance,
        resources={"pipeline": PipelineResource(config_file=str(watched.pipeline.config.file))},
        selection=dg.AssetSelection.checks(*checks),
    )
    passed = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert passed == {"arrivals": True, "failure_share": False, "breaker": True, "queue_age": True}
    assert not Lake(watched.pipeline.config.lake).exists(layout.ALERTS), "looking by hand opens no incident"
