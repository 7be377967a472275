"""Source, plans, files and partitions that do not fit together: found, told, and repaired where that is safe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from caption_assets.captioning.catalog import open_views
from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE, PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.departures import departed
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import begin
from caption_assets.lake.store import Lake
from caption_assets.reconciliation.report import Reconciled
from caption_assets.reconciliation.run import Registry, reconcile
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards
from caption_assets_tests.assets.running import answer
from caption_assets_tests.consolidation.small import AT_ONCE, MakeConfig, merge
from caption_assets_tests.support import ScriptedEngine, caption, ingest, lent


@dataclass
class World:
    """A dataset of two shards whose media are made, and the partitions of an instance."""

    config: PipelineConfig
    folder: Path
    spare: list[Path]
    keys: list[str] = field(default_factory=lambda: ["demo-000000", "demo-000001"])
    busy: set[str] = field(default_factory=set)

    @property
    def lake(self) -> Lake:
        return Lake(self.config.lake)

    def reconcile(self) -> Reconciled:
        """What a reconciliation of now finds."""
        registry = Registry(lambda: list(self.keys), self._add, self._remove, lambda: self.busy)
        return reconcile(self.config, self.lake, "demo", f"run-{os.urandom(4).hex()}", registry)

    def found(self) -> dict[str, tuple[int, int, list[str]]]:
        """Count, repaired and examples by kind."""
        return {kind: (each.count, each.repaired, each.examples) for kind, each in self.reconcile().findings.items()}

    def _add(self, shards: Iterable[Shard]) -> list[str]:
        new = [shard.key for shard in shards if shard.key not in self.keys]
        self.keys += new
        return new

    def _remove(self, shards: Iterable[Shard]) -> list[str]:
        gone = [shard.key for shard in shards if shard.key in self.keys]
        self.keys = [key for key in self.keys if key not in gone]
        return gone


@pytest.fixture
def world(make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("CAPTION_ASSETS_CACHE", str(tmp_path / "cache"))
    folder, files = tmp_path / "in", sorted(pictures.glob("scene*"))
    folder.mkdir()
    for file in files[:4]:
        shutil.copy(file, folder)
    dataset = {"kind": "folder", "path": str(folder), "shard_size": 2}
    config = make_config(datasets={"demo": dataset}, consolidation=AT_ONCE)
    ingest(config, Lake(config.lake))
    return World(config, folder, files[4:])


def test_nothing_is_found_where_all_fits(world: World) -> None:
    report = world.reconcile()
    assert report.lines() == ["demo: 4 items in its source, 2 shards; all fits"]
    assert not report.left
    with open_views(world.config) as views:
        rows = views.execute("SELECT dataset, scanned, shards, found, problem FROM reconciliations").fetchall()
    assert rows == [("demo", 4, 2, "{}", None)]


def test_items_that_nobody_noticed_are_planned_and_registered(world: World) -> None:
    shutil.copy(world.spare[0], world.folder)
    assert world.found() == {
        "unplanned": (1, 1, ["demo-000002"]),
        "unregistered": (1, 1, ["demo-000002"]),
    }
    assert world.keys[-1] == "demo-000002"
    assert world.found() == {"no media": (1, 0, ["demo-000002"])}, "nobody has launched it since"
    world.busy = {"demo-000002"}
    assert world.found() == {}
    with open_views(world.config) as views:
        rows = views.execute("SELECT found, repaired, examples FROM reconciliations ORDER BY started_at").fetchall()
    assert [json.loads(row[0]) for row in rows] == [{"unplanned": 1, "unregistered": 1}, {"no media": 1}, {}]
    assert json.loads(rows[1][1]) == {"no media": 0}
    assert json.loads(rows[1][2]) == {"no media": ["demo-000002"]}


def test_items_that_left_are_marked_until_they_are_back(world: World) -> None:
    file = min(world.folder.iterdir())
    away = world.folder.parent / file.name
    file.rename(away)
    assert world.found() == {"gone": (1, 1, [str(file)])}
    assert [uri for uri, _ in departed(world.lake, "demo")] == [str(file)]
    assert world.found() == {}, "marked already"
    away.rename(file)
    assert world.found() == {"back": (1, 1, [str(file)])}
    assert departed(world.lake, "demo") == frozenset()


def test_what_was_replaced_is_a_new_item_and_a_departed_one(world: World) -> None:
    file = min(world.folder.iterdir())
    shutil.copy(world.spare[0], file)
    found = world.found()
    assert found["unplanned"] == (1, 1, ["demo-000002"])
    assert found["gone"] == (1, 1, [str(file)])


def test_a_source_that_is_away_marks_nothing(world: World) -> None:
    world.folder.rename(world.folder.parent / "away")
    report = world.reconcile()
    assert report.scanned is None
    assert "cannot be read" in report.problem
    assert report.left
    assert departed(world.lake, "demo") == frozenset()
    world.lake.remove(layout.media_index(Shard("demo", 1)))
    assert world.reconcile().findings["no media"].examples == ["demo-000001"], "the rest is compared all the same"


def test_segments_that_are_gone_or_cut_are_told(world: World) -> None:
    one, two = (Path(world.lake.path(layout.segment(Shard("demo", number)))) for number in (0, 1))
    one.unlink()
    two.write_bytes(two.read_bytes()[:-11000])
    assert world.found() == {"segment lost": (2, 0, ["demo-000000", "demo-000001"])}


def test_files_and_partitions_without_a_plan_are_told(world: World) -> None:
    stray = {number: Shard("demo", number) for number in (50, 51, 52)}
    data = world.lake.read(layout.media_index(Shard("demo", 0)))
    world.lake.write(layout.media_index(stray[50]), data)
    world.lake.write(layout.failures_file("scene_count", stray[51]), data)
    world.lake.write(f"{layout.captions_folder('scene_count', 'f', stray[52])}/part.parquet", data)
    world.lake.write(layout.media_index(Shard("demo-2", 0)), data)
    world.keys += ["other-000000", "demo-000077"]
    assert world.found() == {
        "without plan": (3, 0, ["demo-000050", "demo-000051", "demo-000052"]),
        "partition without plan": (1, 0, ["demo-000077"]),
    }


def test_partitions_of_merged_shards_are_removed(world: World, make_config: MakeConfig) -> None:
    caption(world.config, world.lake, planned_shards(world.lake, "demo"), lent(ScriptedEngine(answer)))
    dataset: dict[str, Any] = {"kind": "folder", "path": str(world.folder), "shard_size": 5}
    world.config = make_config(datasets={"demo": dataset}, consolidation=AT_ONCE)
    assert len(merge(world.config).merged) == 1
    assert world.found() == {
        "unregistered": (1, 1, ["demo-000002"]),
        "retired partition": (2, 2, ["demo-000000", "demo-000001"]),
    }
    assert world.keys == ["demo-000002"]
    assert world.found() == {}


def test_a_merge_that_was_never_finished_is_told(world: World) -> None:
    shards = planned_shards(world.lake, "demo")
    begin(world.lake, "demo", shards, Shard("demo", 2), "died")
    assert world.found() == {"merge pending": (1, 0, ["demo-000002"])}


def test_the_command_prints_it(world: World, tmp_path: Path) -> None:
    environment = {CONFIG_VARIABLE: str(world.config.file), "DAGSTER_HOME": ""}
    result = CliRunner().invoke(main, ["reconcile", "demo"], env=environment)
    assert (result.exit_code, result.stdout) == (0, "demo: 4 items in its source, 2 shards; all fits\n")
    shutil.copy(world.spare[0], world.folder)
    plan_dataset(world.lake, "demo", open_source(world.config, "demo"), 2)
    result = CliRunner().invoke(main, ["reconcile"], env=environment)
    assert result.exit_code == 1
    assert "  1 shards without media; run caption_job on them: demo-000002" in result.stdout
    result = CliRunner().invoke(main, ["reconcile", "nope"], env=environment)
    assert result.exit_code == 1
    assert "there is no dataset 'nope'; give one of demo" in result.output
