"""Exports, read back by the libraries that people train with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image

from caption_assets.captioning.catalog import open_views
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.media.shard import read_index
from caption_assets.sources.planner import planned_shards
from caption_assets_tests.assets.running import PERSPECTIVES, Outcome, Pipeline, answer, lending, write_config
from caption_assets_tests.support import ScriptedEngine, SharedEngine, bound_of, lent

NAME = "street.2024-a"


@dataclass
class Exported:
    """A dataset of two shards (one picture stands in both) that is captioned and exported."""

    pipeline: Pipeline
    outcome: Outcome

    def files(self, kind: str) -> list[Path]:
        """The files of a format."""
        return sorted((Path(self.pipeline.config.lake) / "exports" / kind / NAME).iterdir())

    def captions(self) -> dict[str, dict[str, Any]]:
        """What the lake says: outputs by media_id and perspective."""
        with open_views(self.pipeline.config) as views:
            rows = views.execute("SELECT media_id, perspective, output FROM captions").fetchall()
        found: dict[str, dict[str, Any]] = {}
        for media_id, perspective, output in rows:
            found.setdefault(media_id, {})[perspective] = json.loads(output)
        return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path, shared_engine: SharedEngine) -> Exported:
    home = tmp_path_factory.mktemp("exported")
    folder = home / "pictures"
    folder.mkdir()
    sources = sorted(pictures.glob("scene*"))[:5]
    for file in sources:
        shutil.copy(file, folder)
    shutil.copy(sources[0], folder / f"zz-again{sources[0].suffix}")
    pipeline = Pipeline.of(write_config(home, {NAME: {"path": str(folder), "shard_size": 3}}), lending(shared_engine))
    pipeline.ingest(NAME)
    assert pipeline.shards == [f"{NAME}-000000", f"{NAME}-000001"]
    assert pipeline.caption(pipeline.shards[0], pipeline.shards[1]).success
    return Exported(pipeline, pipeline.run("export_job", NAME))


def test_the_job_says_what_it_wrote(exported: Exported) -> None:
    assert exported.outcome.success, exported.outcome.failures
    assert exported.outcome.keys() == {("exports/jsonl", NAME): 1, ("exports/webdataset", NAME): 1}
    told = exported.outcome.of("exports/webdataset", NAME).metadata
    assert (told["samples"], told["files"]) == (6, 2)
    assert told["location"] == f"{exported.pipeline.config.lake}/exports/webdataset/{NAME}"


def test_webdataset_reads_pictures_with_their_captions(exported: Exported) -> None:
    urls = [str(file) for file in exported.files("webdataset")]
    assert [Path(url).name for url in urls] == [f"{NAME}-000000.tar", f"{NAME}-000001.tar"]
    reader = webdataset.WebDataset(urls, shardshuffle=False, empty_check=True).decode("pil")
    samples = list(reader)
    captions = exported.captions()
    assert len(samples) == 6
    assert {sample["__key__"] for sample in samples} == captions.keys()
    for sample in samples:
        picture = next(value for value in sample.values() if isinstance(value, Image.Image))
        record = sample["json"]
        assert picture.size == (record["width"], record["height"])
        assert record["media_id"] == sample["__key__"]
        assert record["captions"] == captions[record["media_id"]]
        assert set(record["captions"]) == set(PERSPECTIVES)


def test_datasets_reads_the_lines(exported: Exported, tmp_path: Path) -> None:
    files = [str(file) for file in exported.files("jsonl")]
    table = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path), split="train")
    captions = exported.captions()
    assert len(table) == 6
    for row in table:
        assert row["dataset"] == NAME
        assert row["captions"] == captions[row["media_id"]]
    assert Path(table[0]["uri"]).exists()


def test_exporting_again_replaces_what_changed_and_removes_what_is_gone(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in sorted(pictures.glob("scene*"))[:2]:
        shutil.copy(file, folder)
    config = write_config(tmp_path, {"demo": {"path": str(folder), "shard_size": 1}})
    pipeline = Pipeline.of(config, lent(ScriptedEngine(answer)))
    pipeline.ingest()
    pipeline.caption("demo-000000")
    target = Path(config.lake) / "exports" / "jsonl" / "demo"

    assert pipeline.run("export_job", "demo").of("exports/jsonl", "demo").metadata["files"] == 1
    assert [file.name for file in target.iterdir()] == ["demo-000000.jsonl"], "no empty file for the other shard"
    (target / "demo-000009.jsonl").write_text("of a shard that is gone")
    before = (target / "demo-000000.jsonl").read_text()

    pipeline.caption("demo-000001")
    pipeline.run("export_job", "demo")
    assert sorted(file.name for file in target.iterdir()) == ["demo-000000.jsonl", "demo-000001.jsonl"]
    assert (target / "demo-000000.jsonl").read_text() == before, "the same captions give the same bytes"

    changed = write_config(
        tmp_path,
        {"demo": {"path": str(folder), "shard_size": 1}},
        perspectives={"library": ["demo"], "enabled": ["scene_count"]},
    )
    Pipeline.of(changed).run("export_job", "demo")
    (line,) = (target / "demo-000000.jsonl").read_text().splitlines()
    assert set(json.loads(line)["captions"]) == {"scene_count"}


def test_pictures_without_a_caption_are_left_out(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in sorted(pictures.glob("scene*"))[:3]:
        shutil.copy(file, folder)
    config = write_config(tmp_path, {"demo": {"path": str(folder)}})
    pipeline = Pipeline.of(config)
    pipeline.ingest()
    pipeline.run("", "demo-000000", select=["media"])
    (shard,) = planned_shards(pipeline.lake, "demo")
    assert len(read_index(pipeline.lake, shard)) == 3
    for format_ in FORMATS:
        found = export_dataset(pipeline.lake, "demo", [shard], bound_of(config), format_)
        assert (found.samples, found.files) == (0, [])


def test_exporting_an_unplanned_dataset_writes_nothing_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pipeline = Pipeline.of(write_config(tmp_path, {"demo": {"path": "pictures"}}))
    outcome = pipeline.run("export_job", "demo")
    assert outcome.success
    assert outcome.of("exports/jsonl", "demo").metadata["files"] == 0
