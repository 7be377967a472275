"""The daily jobs in a real instance: what they merge, find and repair, and what Dagster then knows."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from caption_assets.captioning.catalog import open_views
from caption_assets.partitions import SHARDS, busy_shards
from caption_assets_tests.assets.running import Outcome, Pipeline, answer, write_config
from caption_assets_tests.consolidation.small import AT_ONCE
from caption_assets_tests.support import ScriptedEngine, lent


def run(pipeline: Pipeline, job: str) -> Outcome:
    return pipeline.run(job, "demo")


@pytest.fixture
def pipeline(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Three captioned shards of two pictures each, a fourth that waits for its captions; six fill one."""
    monkeypatch.setenv("CAPTION_ASSETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "in"
    folder.mkdir()
    config = write_config(tmp_path, {"demo": {"path": str(folder), "shard_size": 6}}, consolidation=AT_ONCE)
    pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))
    files = sorted(pictures.glob("scene*"))
    for number in range(4):
        for file in files[2 * number : 2 * number + 2]:
            shutil.copy(file, folder)
        assert pipeline.ingest().success
    assert pipeline.caption("demo-000000", "demo-000002").success
    return pipeline


def test_small_shards_become_one_partition(pipeline: Pipeline) -> None:
    with open_views(pipeline.config) as views:
        before = views.execute("SELECT count(*), count(DISTINCT run_id) FROM runs").fetchall()
    outcome = run(pipeline, "consolidation_job")
    assert outcome.success, outcome.failures
    assert pipeline.shards == ["demo-000003", "demo-000004"]
    assert outcome.keys() == {
        (asset, "demo-000004"): 1
        for asset in ("media", *(f"captions/{name}" for name in pipeline.config.perspectives.enabled))
    }
    assert outcome.of("media", "demo-000004").metadata["merged from"] == "demo-000000, demo-000001, demo-000002"
    with open_views(pipeline.config) as views:
        assert views.execute("SELECT count(*), count(DISTINCT run_id) FROM runs").fetchall() == before
        assert views.execute("SELECT shard, captions FROM shards").fetchall() == [
            ("demo-000003", 0),
            ("demo-000004", 6 * 4),
        ]
    again = pipeline.caption("demo-000004")
    assert again.success
    assert again.of("captions/scene_caption", "demo-000004").metadata["new"] == 0
    statuses = pipeline.instance.get_status_by_partition(
        dg.AssetKey("media"), ["demo-000004"], dg.DynamicPartitionsDefinition(name=SHARDS)
    )
    assert statuses is None or str(statuses["demo-000004"]).endswith("MATERIALIZED")


def test_shards_in_a_run_wait(pipeline: Pipeline) -> None:
    job = pipeline.defs.resolve_job_def("caption_job")
    waiting = pipeline.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "demo-000001"}
    )
    assert busy_shards(pipeline.instance, but="") == {"demo-000001"}
    outcome = run(pipeline, "consolidation_job")
    assert outcome.success
    assert pipeline.shards == ["demo-000001", "demo-000003", "demo-000004"]
    pipeline.instance.delete_run(waiting.run_id)
    assert busy_shards(pipeline.instance, but="") == set()


def test_a_run_that_was_asked_for_a_merged_shard_says_where_it_went(pipeline: Pipeline) -> None:
    assert run(pipeline, "consolidation_job").success
    pipeline.instance.add_dynamic_partitions(SHARDS, ["demo-000001"])
    outcome = pipeline.caption("demo-000001")
    assert not outcome.success
    assert "demo-000001: it was merged into demo-000004; run that one" in outcome.failures


def test_a_reconciliation_tells_and_registers(pipeline: Pipeline, pictures: Path) -> None:
    shutil.copy(sorted(pictures.glob("scene*"))[9], pipeline.config.dataset_path("demo"))
    outcome = run(pipeline, "reconciliation_job")
    assert outcome.success, outcome.failures
    assert pipeline.shards[-1] == "demo-000004"
    metadata = observed(pipeline)
    assert metadata["items in the source"].value == 9
    assert metadata["unplanned"].value == 1
    assert metadata["no media"].value == 1
    assert "demo-000003" in metadata["report"].value
    pipeline.config.dataset_path("demo").rename(pipeline.config.dataset_path("demo").with_name("away"))
    assert run(pipeline, "reconciliation_job").success
    assert "items in the source" not in observed(pipeline)


def observed(pipeline: Pipeline) -> dict[str, Any]:
    """What the latest reconciliation shows in the UI."""
    (event,) = pipeline.instance.fetch_observations(dg.AssetKey("datasets"), limit=1).records
    return dict(event.asset_observation.metadata)  # type: ignore[union-attr]


@pytest.mark.parametrize("watch", [True, False])
def test_the_schedules_run_where_a_dataset_is_watched(tmp_path: Path, watch: bool) -> None:
    for name in ("demo", "still"):
        (tmp_path / name).mkdir()
    datasets = {"demo": {"path": str(tmp_path / "demo"), "watch": watch}, "still": {"path": str(tmp_path / "still")}}
    pipeline = Pipeline.of(write_config(tmp_path, datasets))
    for name in ("consolidation", "reconciliation"):
        schedule = pipeline.defs.resolve_schedule_def(name)
        assert schedule.default_status is dg.DefaultScheduleStatus[("STOPPED", "RUNNING")[watch]]
        assert schedule.description
        context = dg.build_schedule_context(
            pipeline.instance, scheduled_execution_time=datetime(2026, 3, 1, tzinfo=UTC)
        )
        requests: Any = schedule(context)
        assert [request.partition_key for request in requests] == (["demo"] if watch else ["demo", "still"])
        assert all(request.run_key for request in requests)
        assert pipeline.defs.resolve_job_def(f"{name}_job").description
