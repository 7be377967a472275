"""Pictures that their source no longer has: not captioned, not exported, and back without a request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from caption_assets.captioning.catalog import open_views, refresh
from caption_assets.config import PipelineConfig
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.lake.departures import Departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets_tests.assets.running import answer
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent

MakeConfig = Callable[..., PipelineConfig]


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """Three pictures, and a second file with the bytes of the first."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = sorted(pictures.glob("scene*"))[:3]
    for file in files:
        shutil.copy(file, folder)
    shutil.copy(files[0], folder / f"zz{files[0].suffix}")
    return folder


def item(lake: Lake, shard: Shard, number: int) -> Departed:
    row = read_index(lake, shard)[number]
    return Departed(shard.key, row["uri"], row["etag"])


def counts(config: PipelineConfig) -> set[tuple[str, int, int, int]]:
    """What `status` says of each stage: its name, total, done, missing."""
    with open_views(config) as views:
        return set(views.execute("SELECT perspective, total, done, missing FROM status").fetchall())


def exported(config: PipelineConfig, lake: Lake, shards: list[Shard]) -> list[str]:
    """The files' names that the JSONL export has."""
    jsonl = next(each for each in FORMATS if each.name == "jsonl")
    retain = config.datasets["demo"].retain
    export_dataset(lake, "demo", shards, bound_of(config), jsonl, retain=retain)
    files = [Path(lake.path(path)) for path in lake.find("exports/jsonl/demo")]
    return sorted(Path(json.loads(line)["uri"]).stem for file in files for line in file.read_text().splitlines())


def test_what_is_gone_is_neither_captioned_nor_exported(make_config: MakeConfig, folder: Path) -> None:
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder)}})
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    first, second, *_, double = (item(lake, shards[0], number) for number in range(4))
    record(lake, "demo", [first, second], [], "scan")
    engine = ScriptedEngine(answer)
    (report,) = caption(config, lake, shards, lent(engine))
    assert {look.total for look in report.looks.values()} == {2}, "the double of the first is there"
    assert len(engine.requests) == 2 * 4
    assert exported(config, lake, shards) == [Path(read_index(lake, shards[0])[2]["uri"]).stem, "zz"]
    assert counts(config) == {("media", 2, 2, 0), *((name, 2, 2, 0) for name in bound_of(config))}

    record(lake, "demo", [double], [second], "scan")
    assert {missing for name, _, _, missing in counts(config) if name != "media"} == {1}, "the second"
    caption(config, lake, shards, lent(engine), run_id="next")
    assert len(engine.requests) == 3 * 4, "only the second"
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM captions").fetchone() == (2 * 4,)
    record(lake, "demo", [], [first], "scan")
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM captions").fetchone() == (3 * 4,), "at no cost"
        assert views.execute("SELECT count(*) FROM stale").fetchone() == (0,)
    assert len(exported(config, lake, shards)) == 3


def test_a_dataset_that_retains_captions_what_is_gone(make_config: MakeConfig, folder: Path) -> None:
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder), "retain": True}})
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    record(lake, "demo", [item(lake, shards[0], number) for number in range(4)], [], "scan")
    (report,) = caption(config, lake, shards, lent(ScriptedEngine(answer)))
    assert {look.total for look in report.looks.values()} == {3}
    assert len(exported(config, lake, shards)) == 3
    refresh(config, lake)
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM departures WHERE retained").fetchone() == (4,)


def test_a_shard_whose_pictures_are_all_gone_is_done(make_config: MakeConfig, folder: Path) -> None:
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder)}})
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    record(lake, "demo", [item(lake, shards[0], number) for number in range(4)], [], "scan")
    engine = ScriptedEngine(answer)
    (report,) = caption(config, lake, shards, lent(engine))
    assert engine.requests == []
    assert all(look.complete and look.total == 0 for look in report.looks.values())
    assert exported(config, lake, shards) == []
