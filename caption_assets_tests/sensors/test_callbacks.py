"""`callbacks`: what the real jobs do reaches a receiver, once each, whatever process looks."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from jsonschema import Draft202012Validator

from caption_assets.events.event import SCHEMA_FILE
from caption_assets.resources import PipelineResource
from caption_assets.sensors.telling import CALLBACKS, build_telling_sensors
from caption_assets_tests.assets.running import PERSPECTIVES, Pipeline, answer, write_config
from caption_assets_tests.events.receiver import Delivery, Receiver, Status
from caption_assets_tests.support import ScriptedEngine, lent

SHARDS = ["demo-000000", "demo-000001"]


class Told:
    """Pictures, a pipeline over them with a receiver, and ticks of the sensor."""

    def __init__(self, home: Path, pictures: Path, receiver: Receiver, **sections: Any) -> None:
        (home / "demo").mkdir()
        self.receiver, self.source, self.home = receiver, sorted(pictures.glob("scene*")), home
        self.add(4)
        config = write_config(
            home,
            {"demo": {"path": str(home / "demo"), "shard_size": 2, "settle_seconds": 0}},
            callbacks=[receiver.callback(timeout_seconds=20)],
            **sections,
        )
        self.pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))

    def add(self, count: int) -> None:
        """Copy pictures into the folder."""
        start = len(list((self.home / "demo").iterdir()))
        for file in self.source[start : start + count]:
            shutil.copy(file, self.home / "demo")

    def tick(self) -> str:
        """Evaluate the sensor as the daemon does; what it says."""
        context = dg.build_sensor_context(
            instance=self.pipeline.instance,
            definitions=self.pipeline.defs,
            resources={"pipeline": PipelineResource(config_file=str(self.pipeline.config.file))},
        )
        result: Any = self.pipeline.defs.resolve_sensor_def(CALLBACKS)(context)
        assert isinstance(result, dg.SkipReason)
        return str(result.skip_message)

    def events(self, type_: str) -> list[Any]:
        """The events of a type that the receiver has."""
        return [each.event for each in self.receiver.requests if each.event["type"] == type_]


@pytest.fixture
def told(tmp_path: Path, pictures: Path, receiver: Receiver) -> Told:
    return Told(tmp_path, pictures, receiver)


def rows_at(place: str) -> int:
    """Rows of the Parquet files of a folder."""
    import pyarrow.dataset as ds

    return int(ds.dataset(place, format="parquet").count_rows())


def test_a_dataset_from_plan_to_completion(told: Told) -> None:
    pipeline, receiver = told.pipeline, told.receiver
    ingest = pipeline.ingest()
    first = pipeline.caption(SHARDS[0])
    assert "4 new events" in told.tick()
    assert Counter(receiver.types()) == {"job.succeeded": 2, "shard.media": 1, "shard.captions": 1}
    assert receiver.requests[0].event["data"]["run_id"] == ingest.run_id
    assert receiver.types()[1:] == ["shard.media", "shard.captions", "job.succeeded"]
    assert "0 new events" in told.tick()

    second = pipeline.caption(SHARDS[1])
    assert "4 new events" in told.tick()
    (completed,) = told.events("dataset.completed")
    data = completed["data"]
    assert (data["shards"], data["planned"], data["pictures"], data["media_failures"]) == (2, 4, 4, 0)
    looks = {each["perspective"]: each for each in data["perspectives"]}
    assert {name: (each["captions"], each["failed"]) for name, each in looks.items()} == dict.fromkeys(
        PERSPECTIVES, (4, 0)
    )
    assert [event["data"]["run_id"] for event in told.events("job.succeeded")] == [
        ingest.run_id, first.run_id, second.run_id,
    ]  # fmt: skip
    assert {event["data"]["job"] for event in told.events("job.succeeded")} == {"ingest_job", "caption_job"}
    for event in told.events("shard.captions"):
        for each in event["data"]["perspectives"]:
            assert each["done"] == each["planned"] == rows_at(each["results"]["rows"]) == 2
    schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    for delivery in receiver.requests:
        schema.validate(delivery.event)


def test_a_dead_receiver_never_slows_captioning(told: Told) -> None:
    """A tick hangs at the receiver; meanwhile a shard is captioned, by a run that asks nobody."""
    told.pipeline.ingest()
    asked, released = threading.Event(), threading.Event()

    def hang(delivery: Delivery) -> Status:
        asked.set()
        released.wait(60)
        return 204

    told.receiver.answer = hang
    with ThreadPoolExecutor(1) as pool:
        tick = pool.submit(told.tick)
        assert asked.wait(30)
        assert told.pipeline.caption(SHARDS[0]).success
        assert not tick.done()
        released.set()
        assert "1 delivered" in tick.result()
    assert len(told.receiver.requests) == 1
    told.tick()
    assert told.receiver.types() == ["job.succeeded", "shard.media", "shard.captions", "job.succeeded"]


def test_in_the_instance_that_comes_along_sensors_do_not_wait_for_each_other(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "deploy" / "local" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_sensor_settings()["use_threads"]


def test_a_new_shard_completes_its_dataset_again_and_nothing_new_does_not(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    told.tick()
    told.pipeline.caption(*SHARDS)
    told.tick()
    assert len(told.events("dataset.completed")) == 1
    assert len(told.events("shard.captions")) == 2, "a run that finds nothing to do says nothing of shards"
    told.add(1)
    told.pipeline.ingest()
    told.tick()
    assert len(told.events("dataset.completed")) == 1
    told.pipeline.caption("demo-000002")
    told.tick()
    assert [event["data"]["shards"] for event in told.events("dataset.completed")] == [2, 3]


def test_failures_are_told_by_kind_and_do_not_keep_a_dataset_open(
    tmp_path: Path, pictures: Path, receiver: Receiver
) -> None:
    told = Told(tmp_path, pictures, receiver, captions={"max_failure_share": 1.0})
    (tmp_path / "demo" / told.source[1].name).write_bytes(b"no picture")
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    told.tick()
    media = {event["data"]["shard"]: event["data"] for event in told.events("shard.media")}
    assert media[SHARDS[0]]["failure_kinds"] == {"not_an_image": 1}
    assert (media[SHARDS[0]]["planned"], media[SHARDS[0]]["done"]) == (2, 1)
    assert rows_at(media[SHARDS[0]]["results"]["failures"]) == 1
    assert media[SHARDS[1]]["results"]["failures"] is None
    (completed,) = told.events("dataset.completed")
    assert (completed["data"]["pictures"], completed["data"]["media_failures"]) == (3, 1)


def test_a_shard_of_which_nothing_can_be_decoded_is_told_and_done(
    tmp_path: Path, pictures: Path, receiver: Receiver
) -> None:
    told = Told(tmp_path, pictures, receiver)
    for file in (tmp_path / "demo").iterdir():
        file.write_bytes(b"no picture")
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    told.tick()
    assert [event["data"]["failed"] for event in told.events("shard.media")] == [2, 2]
    (completed,) = told.events("dataset.completed")
    assert (completed["data"]["pictures"], completed["data"]["media_failures"]) == (0, 4)


def test_a_dataset_that_cannot_be_judged_is_judged_later_and_stops_nothing(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    index = Path(told.pipeline.config.lake) / "media" / "dataset=demo" / f"{SHARDS[0]}.parquet"
    whole = index.read_bytes()
    index.write_bytes(b"no Parquet")
    told.tick()
    assert len(told.events("shard.captions")) == 2
    assert told.events("dataset.completed") == []
    index.write_bytes(whole)
    assert "1 new events" in told.tick()
    assert len(told.events("dataset.completed")) == 1


def test_a_job_that_fails_says_why_in_a_line(told: Told) -> None:
    told.pipeline.ingest()
    outcome = told.pipeline.run("caption_job", SHARDS[0], select=["captions/scene_count"])
    assert not outcome.success
    told.tick()
    (failed,) = told.events("job.failed")
    assert failed["datasets"] == ["demo"]
    assert failed["data"]["partitions"] == {"count": 1, "first": SHARDS[0], "last": SHARDS[0]}
    assert failed["data"]["error"] == f"no captions for {SHARDS[0]}"


def test_a_queued_run_that_is_cancelled_is_told(told: Told) -> None:
    instance = told.pipeline.instance
    job = told.pipeline.defs.resolve_job_def("caption_job")
    run = instance.create_run_for_job(job, tags={"dagster/partition": SHARDS[0]})
    instance.report_run_canceled(run)
    told.tick()
    (cancelled,) = told.events("job.cancelled")
    assert (cancelled["data"]["run_id"], cancelled["datasets"]) == (run.run_id, ["demo"])


def test_a_range_names_its_first_and_last_shard(told: Told) -> None:
    told.pipeline.ingest()
    told.pipeline.caption(*SHARDS)
    told.tick()
    ranged = told.events("job.succeeded")[-1]["data"]
    assert ranged["partitions"] == {"count": 2, "first": SHARDS[0], "last": SHARDS[1]}


def test_runs_of_other_peoples_jobs_are_not_told(told: Told) -> None:
    @dg.job
    def strange_job() -> None: ...

    assert strange_job.execute_in_process(instance=told.pipeline.instance).success
    told.tick()
    assert told.receiver.requests == []


def test_there_is_a_sensor_only_where_there_are_receivers(told: Told, tmp_path: Path) -> None:
    assert [each.name for each in build_telling_sensors(told.pipeline.config)] == [CALLBACKS]
    (tmp_path / "other").mkdir()
    assert build_telling_sensors(write_config(tmp_path, {"demo": {"path": str(tmp_path / "demo")}})) == []
