"""The media asset's launchpad options, and what a deletion looks like in its check."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from caption_assets.lake.layout import Shard
from caption_assets.media.deletion import delete, plan_deletion
from caption_assets.media.shard import read_index
from caption_assets_tests.assets.running import Pipeline, write_config

SHARD = "demo-000000"


@pytest.fixture
def pipeline(tmp_path: Path, pictures: Path) -> Pipeline:
    (tmp_path / "pictures").mkdir()
    for file in sorted(pictures.glob("scene*"))[:3]:
        shutil.copy(file, tmp_path / "pictures")
    pipeline = Pipeline.of(write_config(tmp_path, {"demo": {"path": "pictures"}}))
    pipeline.ingest()
    assert pipeline.run("", SHARD, select=["media"]).success
    return pipeline


def test_verify_makes_damaged_pictures_again_and_says_so(pipeline: Pipeline) -> None:
    row = read_index(pipeline.lake, Shard.parse(SHARD))[0]
    with Path(pipeline.lake.path(f"media/dataset=demo/{row['segment']}")).open("r+b") as file:
        file.seek(row["offset"] + 10)
        file.write(b"damaged")
    unasked = pipeline.run("", SHARD, select=["media"]).of("media", SHARD)
    assert unasked.metadata["new"] == 0
    assert "damaged" not in unasked.metadata
    made = pipeline.run("", SHARD, select=["media"], media={"verify": True}).of("media", SHARD)
    assert (made.metadata["damaged"], made.metadata["new"], made.metadata["failed"]) == (1, 1, 0)
    again = pipeline.run("", SHARD, select=["media"], media={"verify": True}).of("media", SHARD)
    assert (again.metadata["damaged"], again.metadata["new"]) == (0, 0)


def test_a_deleted_picture_is_no_error(pipeline: Pipeline) -> None:
    row = read_index(pipeline.lake, Shard.parse(SHARD))[0]
    delete(pipeline.lake, plan_deletion(pipeline.lake, [row["media_id"]]), "wish", "tester", "deletion")
    outcome = pipeline.run("", SHARD, select=["media"], media={"force": True})
    assert outcome.success
    assert outcome.of("media", SHARD).metadata["failure kinds"] == "deleted: 1"
    assert outcome.check("media", SHARD).passed
