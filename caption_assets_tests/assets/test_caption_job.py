"""`caption_job` on real vLLM: one load for a range, and the truth about every shard in Dagster."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from caption_assets.captioning.catalog import open_views
from caption_assets.captioning.run import CaptionRun
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.media.shard import read_failures
from caption_assets.partitions import SHARDS
from caption_assets.resources import VllmResource
from caption_assets_tests.assets.running import (
    ALL_ASSETS,
    PERSPECTIVES,
    Outcome,
    Pipeline,
    answer,
    lending,
    write_config,
)
from caption_assets_tests.support import ScriptedEngine, SharedEngine, bound_of, lent, reply

SHARD_KEYS = ["demo-000000", "demo-000001", "demo-000002"]


def folder_of(pictures: Path, folder: Path, count: int) -> Path:
    """A folder with some of the session's pictures."""
    folder.mkdir()
    for file in sorted(pictures.glob("scene*"))[:count]:
        shutil.copy(file, folder)
    return folder


@dataclass
class Captioned:
    """Three shards of four items, captioned in one run and then again; one item of the second is half a picture."""

    pipeline: Pipeline
    first: Outcome
    opened: int
    again: Outcome
    opened_again: int


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, pictures: Path, shared_engine: SharedEngine) -> Captioned:
    home = tmp_path_factory.mktemp("captioned")
    folder = folder_of(pictures, home / "pictures", 11)
    whole = sorted(folder.glob("*.png"))[4].read_bytes()
    (folder / "scene-4711-00004-broken.png").write_bytes(whole[: len(whole) // 2])
    pipeline = Pipeline.of(write_config(home, {"demo": {"path": str(folder), "shard_size": 4}}), lending(shared_engine))
    pipeline.ingest()
    shared_engine.opened = 0
    first = pipeline.caption(SHARD_KEYS[0], SHARD_KEYS[-1])
    opened, shared_engine.opened = shared_engine.opened, 0
    again = pipeline.caption(SHARD_KEYS[0], SHARD_KEYS[-1])
    return Captioned(pipeline, first, opened, again, shared_engine.opened)


def test_a_range_loads_the_model_once_and_records_each_shard_once(captioned: Captioned) -> None:
    assert captioned.first.success, captioned.first.failures
    assert captioned.opened == 1
    assert captioned.first.keys() == {(asset, shard): 1 for asset in ALL_ASSETS for shard in SHARD_KEYS}
    with open_views(captioned.pipeline.config) as views:
        assert views.execute("SELECT count(*) FROM captions").fetchone() == (11 * 4,)


def test_a_materialization_says_what_people_want_to_know(captioned: Captioned) -> None:
    for name, bound in bound_of(captioned.pipeline.config).items():
        event = captioned.first.of(f"captions/{name}", "demo-000000")
        told = event.metadata
        assert (told["pictures"], told["new"], told["failed"], told["already there"]) == (4, 4, 0, 0)
        assert told["failure kinds"] == "none"
        assert told["pictures per second"] > 0
        assert told["tokens per second"] > 0
        assert told["completion tokens"] > 0
        assert told["preview"].count("![picture](data:image/jpeg;base64,") == 4
        assert "nothing yet" not in told["preview"]
        assert event.tags["dagster/code_version"] == bound.fingerprint == told["fingerprint"]
        assert len(event.tags["dagster/data_version"]) == 16
        assert event.tags["dagster/data_version_is_user_provided"] == "true"
    media = captioned.first.of("media", "demo-000000").metadata
    assert (media["planned"], media["pictures"], media["new"], media["failed"]) == (4, 4, 4, 0)
    assert media["pictures per second"] > 0
    assert media["preview"].count("![picture](data:image/jpeg;base64,") == 4


def test_a_broken_picture_is_seen_and_stops_nothing(captioned: Captioned) -> None:
    media = captioned.first.of("media", "demo-000001").metadata
    assert (media["planned"], media["pictures"], media["failed"]) == (4, 3, 1)
    (failure,) = read_failures(captioned.pipeline.lake, "media", Shard("demo", 1))
    assert media["failure kinds"] == f"{failure['kind']}: 1"
    check = captioned.first.check("media", "demo-000001")
    assert (check.passed, check.severity) == (False, "WARN")
    assert (check.metadata["failed"], check.metadata["lost"]) == (1, 0)
    assert captioned.first.of("captions/scene_count", "demo-000001").metadata["pictures"] == 3


def test_every_asset_of_every_shard_has_a_check(captioned: Captioned) -> None:
    for asset in ALL_ASSETS:
        for shard in SHARD_KEYS:
            check = captioned.first.check(asset, shard)
            assert check.passed == ((asset, shard) != ("media", "demo-000001"))


def test_again_nothing_is_done_and_it_says_so(captioned: Captioned) -> None:
    assert captioned.again.success
    assert captioned.opened_again == 0, "no model is loaded"
    for name in PERSPECTIVES:
        told = captioned.again.of(f"captions/{name}", "demo-000001").metadata
        assert (told["already there"], told["new"], told["failed"], told["completion tokens"]) == (3, 0, 0, 0)
        versions = [
            each.of(f"captions/{name}", "demo-000001").tags["dagster/data_version"]
            for each in (captioned.first, captioned.again)
        ]
        assert versions[0] == versions[1]
    assert captioned.again.of("media", "demo-000001").metadata["new"] == 0


def test_the_runs_table_has_a_row_for_what_was_done_and_none_for_what_was_not(captioned: Captioned) -> None:
    with open_views(captioned.pipeline.config) as views:
        rows = views.execute("SELECT run_id, step, count(*), sum(done) FROM runs GROUP BY ALL ORDER BY step").fetchall()
    run_id = captioned.first.run_id
    assert rows == [(run_id, "captions", 12, 44), (run_id, "media", 3, 11)]


@pytest.fixture
def pipeline(tmp_path: Path, pictures: Path) -> Pipeline:
    """Three shards of two pictures, planned, with a quick engine."""
    folder = folder_of(pictures, tmp_path / "pictures", 6)
    config = write_config(tmp_path, {"demo": {"path": str(folder), "shard_size": 2}})
    pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))
    pipeline.ingest()
    return pipeline


def test_one_shard_by_its_key(pipeline: Pipeline) -> None:
    outcome = pipeline.caption("demo-000001")
    assert outcome.success
    assert outcome.keys() == {(asset, "demo-000001"): 1 for asset in ALL_ASSETS}


def test_a_single_perspective_can_be_materialized(pipeline: Pipeline) -> None:
    pipeline.run("", SHARD_KEYS[0], SHARD_KEYS[1], select=["media"])
    outcome = pipeline.run("", SHARD_KEYS[0], SHARD_KEYS[1], select=["captions/scene_count"])
    assert outcome.success, outcome.failures
    assert outcome.keys() == {("captions/scene_count", shard): 1 for shard in SHARD_KEYS[:2]}
    assert {check.asset for check in outcome.checks} == {"captions/scene_count"}


def test_captions_of_a_shard_without_media_fail_after_the_others(pipeline: Pipeline) -> None:
    for shard in (SHARD_KEYS[0], SHARD_KEYS[2]):
        pipeline.run("", shard, select=["media"])
    outcome = pipeline.run("", SHARD_KEYS[0], SHARD_KEYS[2], select=["captions/scene_count"])
    assert not outcome.success
    assert "no captions for demo-000001" in outcome.failures
    assert "materialize `media`" in outcome.failures
    assert set(outcome.keys()) == {("captions/scene_count", SHARD_KEYS[0]), ("captions/scene_count", SHARD_KEYS[2])}


def test_a_shard_that_was_never_planned_fails_after_the_media_of_the_others(pipeline: Pipeline) -> None:
    pipeline.instance.add_dynamic_partitions(SHARDS, ["demo-000007", "demo-000008"])
    pipeline.lake.write(
        "shards/dataset=demo/demo-000008.parquet", pipeline.lake.read("shards/dataset=demo/demo-000000.parquet")
    )
    outcome = pipeline.run("", SHARD_KEYS[0], "demo-000008", select=["media"])
    assert not outcome.success
    assert "no media for demo-000007" in outcome.failures
    assert "never planned; materialize `datasets` (demo) first" in outcome.failures
    assert outcome.keys() == {("media", shard): 1 for shard in [*SHARD_KEYS, "demo-000008"]}
    assert outcome.of("media", SHARD_KEYS[0]).metadata["pictures"] == 2
    assert outcome.of("media", SHARD_KEYS[0]).metadata["preview"].startswith("![picture]")


def test_a_damaged_plan_of_one_shard_does_not_stop_the_others(pipeline: Pipeline) -> None:
    pipeline.lake.write("shards/dataset=demo/demo-000000.parquet", b"no Parquet")
    outcome = pipeline.caption(SHARD_KEYS[0], SHARD_KEYS[2])
    assert not outcome.success
    assert "no media for demo-000000" in outcome.failures
    assert "ArrowInvalid" in outcome.failures
    assert [(event.asset, event.partition) for event in outcome.made] == [("media", shard) for shard in SHARD_KEYS[1:]]


def test_a_shard_of_a_dataset_that_left_the_pipeline_file(pipeline: Pipeline) -> None:
    pipeline.instance.add_dynamic_partitions(SHARDS, ["other-000000"])
    outcome = pipeline.caption("other-000000")
    assert not outcome.success
    assert f"{pipeline.config.file}: datasets: there is no dataset 'other'" in outcome.failures


def test_a_partition_that_is_no_shard(pipeline: Pipeline) -> None:
    pipeline.instance.add_dynamic_partitions(SHARDS, ["../../etc"])
    outcome = pipeline.caption("../../etc")
    assert not outcome.success
    assert "'../../etc' is not a shard" in outcome.failures


def test_a_range_leaves_out_what_is_no_partition_and_takes_along_what_stands_between(
    tmp_path: Path, pictures: Path
) -> None:
    folder_of(pictures, tmp_path / "a", 3)
    folder_of(pictures, tmp_path / "b", 1)
    config = write_config(tmp_path, {name: {"path": str(tmp_path / name), "shard_size": 1} for name in ("a", "b")})
    pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))
    pipeline.ingest("a")
    pipeline.ingest("b")
    pipeline.instance.delete_dynamic_partition(SHARDS, "a-000001")
    pipeline.instance.delete_dynamic_partition(SHARDS, "a-000002")
    pipeline.instance.add_dynamic_partitions(SHARDS, ["a-000002"])
    assert pipeline.shards == ["a-000000", "b-000000", "a-000002"]
    outcome = pipeline.caption("a-000000", "a-000002")
    assert outcome.success
    assert {event.partition for event in outcome.made} == {"a-000000", "b-000000", "a-000002"}


def test_failed_captions_are_a_warning_and_a_dead_engine_a_failure(pipeline: Pipeline, tmp_path: Path) -> None:
    def stubborn(request: EngineRequest) -> EngineReply:
        return reply("no JSON") if "scene_count" in request.request_id else answer(request)

    outcome = Pipeline.of(pipeline.config, lent(ScriptedEngine(stubborn))).caption_new(pipeline, SHARD_KEYS[0])
    assert outcome.success, "completed with errors"
    count = outcome.of("captions/scene_count", SHARD_KEYS[0])
    assert (count.metadata["failed"], count.metadata["failure kinds"]) == (2, "not_json: 2")
    assert "*nothing yet*" in count.metadata["preview"]
    check = outcome.check("captions/scene_count", SHARD_KEYS[0])
    assert (check.passed, check.severity, check.metadata["failed"]) == (False, "WARN", 2)
    assert outcome.check("captions/scene_caption", SHARD_KEYS[0]).passed

    def dead(request: EngineRequest) -> EngineFailure:
        return EngineFailure("engine", "the engine is gone", retryable=True, fatal=True)

    outcome = Pipeline.of(pipeline.config, lent(ScriptedEngine(dead))).caption_new(pipeline, SHARD_KEYS[1])
    assert not outcome.success
    assert "the engine is gone" in outcome.failures
    assert outcome.keys() == {("media", SHARD_KEYS[1]): 1}


def test_what_a_model_writes_is_no_markup_in_the_preview(pipeline: Pipeline) -> None:
    def sly(request: EngineRequest) -> EngineReply:
        if "scene_caption" not in request.request_id:
            return answer(request)
        return reply(json.dumps({"caption": "a | b\n![x](https://example.org) <img src=x>", "tags": ["red"]}))

    outcome = Pipeline.of(pipeline.config, lent(ScriptedEngine(sly))).caption_new(pipeline, SHARD_KEYS[0])
    preview = outcome.of("captions/scene_caption", SHARD_KEYS[0]).metadata["preview"]
    assert "example" in preview
    assert "![x](" not in preview
    assert re.findall(r"(?<!\\)<(\w+)", preview.replace("<br>", "")) == []
    assert len(preview.splitlines()) == 2 + 2, "head, rule, and a line a picture"


def test_lost_rows_are_an_error(pipeline: Pipeline) -> None:
    class Losing(VllmResource):
        def caption(self, *args: object, **options: object) -> list[object]:  # type: ignore[override]
            options["open_"] = lent(ScriptedEngine(answer))
            reports = list(CaptionRun(*args, **options))  # type: ignore[arg-type]
            reports[0].looks["scene_objects"].done -= 1
            return list(reports)

    outcome = Pipeline.of(pipeline.config, vllm=Losing()).caption_new(pipeline, SHARD_KEYS[0])
    check = outcome.check("captions/scene_objects", SHARD_KEYS[0])
    assert (check.passed, check.severity) == (False, "ERROR")


def test_force_captions_again(pipeline: Pipeline) -> None:
    pipeline.caption(SHARD_KEYS[0])
    assert pipeline.caption(SHARD_KEYS[0]).of("captions/scene_count", SHARD_KEYS[0]).metadata["new"] == 0
    forced = pipeline.caption(SHARD_KEYS[0], captions={"force": True})
    assert forced.of("captions/scene_count", SHARD_KEYS[0]).metadata["new"] == 2


def test_a_perspective_of_a_second_engine_runs_after_what_it_reads(tmp_path: Path, pictures: Path) -> None:
    """Two ops in one run; the second must not be skipped, and no shard be recorded twice."""
    import caption_assets.demo

    source = Path(caption_assets.demo.__file__).parent / "perspectives" / "synthesized_caption.json"
    (tmp_path / "own").mkdir()
    document = {**json.loads(source.read_text()), "engine": "second"}
    (tmp_path / "own" / "synthesized_caption.json").write_text(json.dumps(document))
    folder = folder_of(pictures, tmp_path / "pictures", 4)
    tiny = {"kind": "vllm", "model": "tiny"}
    config = write_config(
        tmp_path,
        {"demo": {"path": str(folder), "shard_size": 2}},
        perspectives={"library": ["demo", "./own"], "enabled": PERSPECTIVES},
        engines={"default": tiny, "second": tiny},
    )
    pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))
    pipeline.ingest()
    outcome = pipeline.caption(SHARD_KEYS[0], SHARD_KEYS[1])
    assert outcome.success, outcome.failures
    assert outcome.steps == {"media", "captions_default_0", "captions_second_1"}
    assert outcome.keys() == {(asset, shard): 1 for asset in ALL_ASSETS for shard in SHARD_KEYS[:2]}
    event = outcome.of("captions/scene_count", SHARD_KEYS[0])
    assert event.metadata["new"] == 2
    assert event.tags["dagster/code_version"] == bound_of(config)["scene_count"].fingerprint
    with open_views(config) as views:
        rows = views.execute("SELECT perspective FROM runs WHERE step = 'captions' AND shard = ?", [SHARD_KEYS[0]])
        assert {name for (name,) in rows.fetchall()} == set(PERSPECTIVES), "neither op's rows replace the other's"
