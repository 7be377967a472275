"""`ingest_job`: plans what is new, once, and registers the shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from caption_assets.config import PipelineConfig, load_config
from caption_assets.resources import PipelineResource
from caption_assets.sources.planner import planned_shards
from caption_assets_tests.assets.running import Pipeline, write_config


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """Five pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in sorted(pictures.glob("scene*"))[:5]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def pipeline(tmp_path: Path, folder: Path) -> Pipeline:
    """Two pictures a shard."""
    return Pipeline.of(write_config(tmp_path, {"demo": {"path": str(folder), "shard_size": 2}}))


def test_it_plans_registers_and_says_what_it_did(pipeline: Pipeline) -> None:
    outcome = pipeline.ingest()
    shards = ["demo-000000", "demo-000001", "demo-000002"]
    assert outcome.success
    assert pipeline.shards == shards == [shard.key for shard in planned_shards(pipeline.lake, "demo")]
    assert outcome.keys() == {("datasets", "demo"): 1}
    assert outcome.of("datasets", "demo").metadata == {
        "new items": 5,
        "new shards": "demo-000000 … demo-000002",
        "shards": 3,
    }
    assert pipeline.lake.exists("catalog.duckdb")


def test_a_second_time_there_is_nothing_new(pipeline: Pipeline) -> None:
    pipeline.ingest()
    plans = Path(pipeline.config.lake) / "shards"
    before = {file: file.stat().st_mtime_ns for file in plans.rglob("*.parquet")}
    outcome = pipeline.ingest()
    assert outcome.of("datasets", "demo").metadata == {"new items": 0, "new shards": "none", "shards": 3}
    assert {file: file.stat().st_mtime_ns for file in plans.rglob("*.parquet")} == before
    assert len(pipeline.shards) == 3


def test_a_picture_more_is_a_shard_more(pipeline: Pipeline, folder: Path, pictures: Path) -> None:
    pipeline.ingest()
    shutil.copy(sorted(pictures.glob("scene*"))[7], folder)
    outcome = pipeline.ingest()
    assert outcome.of("datasets", "demo").metadata == {"new items": 1, "new shards": "demo-000003", "shards": 4}
    assert pipeline.shards[-1] == "demo-000003"


def test_a_new_instance_learns_the_shards_of_an_old_lake(pipeline: Pipeline) -> None:
    pipeline.ingest()
    fresh = Pipeline.of(pipeline.config)
    outcome = fresh.ingest()
    assert fresh.shards == pipeline.shards
    assert outcome.of("datasets", "demo").metadata["new items"] == 0


def test_an_unknown_dataset_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(dg.DagsterUnknownPartitionError, match="nope"):
        pipeline.ingest("nope")


def test_a_dataset_without_its_folder_does_not_stop_the_others(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "gone").mkdir()
    datasets = {"a": {"path": str(folder)}, "b": {"path": "gone"}, "c": {"path": str(folder)}}
    config = write_config(tmp_path, datasets)
    (tmp_path / "gone").rmdir()

    class Patient(PipelineResource):
        def config(self) -> PipelineConfig:
            return load_config(self.config_file, check_paths=False)

    pipeline = Pipeline.of(config, pipeline=Patient(config_file=str(config.file)))
    outcome = pipeline.run("ingest_job", "a", "c")
    assert not outcome.success
    assert "no plan for b" in outcome.failures
    assert str(tmp_path / "gone") in outcome.failures
    assert outcome.keys() == {("datasets", "a"): 1, ("datasets", "c"): 1}
    assert pipeline.shards == ["a-000000", "c-000000"]
