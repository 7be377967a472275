"""`arrivals_<dataset>`: each new picture is planned once and handed over once, whatever dies in between."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from caption_assets import run_tags
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.media.shard import build_media
from caption_assets.partitions import SHARDS
from caption_assets.resources import PipelineResource
from caption_assets.sensors.arrivals import handed_over
from caption_assets.sensors.launching import contiguous
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards, read_plan
from caption_assets_tests.assets.running import Pipeline, write_config

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class Watched:
    """A watched folder with its sensor, and an instance that applies what ticks ask for."""

    def __init__(self, home: Path, pictures: Path, names: tuple[str, ...] = ("demo",), shard_size: int = 2) -> None:
        self.home, self.source = home, sorted(pictures.glob("scene*"))
        for name in names:
            (home / name).mkdir()
        datasets = {
            name: {"path": str(home / name), "watch": True, "shard_size": shard_size, "settle_seconds": 5}
            for name in names
        }
        self.pipeline = Pipeline.of(write_config(home, datasets))
        self.cursors: dict[str, str | None] = {}

    def add(self, count: int, name: str = "demo", age: float = 60.0) -> list[Path]:
        """Copy pictures into the folder, last changed some seconds ago."""
        start = len(list((self.home / name).iterdir()))
        files = [Path(shutil.copy(file, self.home / name)) for file in self.source[start : start + count]]
        for file in files:
            os.utime(file, (time.time() - age,) * 2)
        return files

    def tick(self, name: str = "demo", *, apply: bool = True) -> Any:
        """Evaluate the sensor as the daemon does; without `apply` the daemon dies right after."""
        definition = self.pipeline.defs.resolve_sensor_def(f"arrivals_{name}")
        context = dg.build_sensor_context(
            instance=self.pipeline.instance,
            cursor=self.cursors.get(name),
            definitions=self.pipeline.defs,
            resources={"pipeline": PipelineResource(config_file=str(self.pipeline.config.file))},
        )
        result = definition(context)
        if isinstance(result, dg.SensorResult) and apply:
            for request in result.dynamic_partitions_requests or []:
                self.pipeline.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            self.cursors[name] = result.cursor
        return result

    def media(self, *shards: Shard) -> None:
        """Make media, as the launched run would."""
        config = self.pipeline.config
        for shard in shards:
            build_media(self.pipeline.lake, shard, open_source(config, shard.dataset), config.media, "run")


@pytest.fixture
def watched(tmp_path: Path, pictures: Path) -> Watched:
    return Watched(tmp_path, pictures)


def ranges(result: dg.SensorResult) -> list[tuple[str, str]]:
    """First and last shard of each run asked for."""
    first, last = RANGE
    return [
        (request.partition_key or request.tags[first], request.partition_key or request.tags[last])
        for request in result.run_requests or []
    ]


def test_new_pictures_are_planned_registered_and_launched(watched: Watched) -> None:
    watched.add(1)
    result = watched.tick()
    assert ranges(result) == [("demo-000000", "demo-000000")]
    assert watched.pipeline.shards == ["demo-000000"]
    assert [shard.key for shard in planned_shards(watched.pipeline.lake, "demo")] == ["demo-000000"]
    (request,) = result.run_requests
    assert request.run_key == "demo-000000"


def test_the_tick_explains_itself(watched: Watched, capfd: pytest.CaptureFixture[str]) -> None:
    watched.add(2)
    (request,) = watched.tick(apply=False).run_requests
    assert request.tags[run_tags.WHY] == "2 new pictures → shard demo-000000"
    assert "2 new pictures → shard demo-000000" in "".join(capfd.readouterr())
    watched.add(1)
    watched.tick(apply=False)
    assert "1 new picture → shards demo-000000, demo-000001" in "".join(capfd.readouterr())
    watched.tick()
    assert "no new pictures, but shards never handed over → shards" in "".join(capfd.readouterr())


def test_several_shards_share_one_run(watched: Watched) -> None:
    watched.add(5)
    result = watched.tick()
    assert ranges(result) == [("demo-000000", "demo-000002")]
    assert watched.pipeline.shards == ["demo-000000", "demo-000001", "demo-000002"]


def test_the_launched_run_is_one_that_the_job_takes(watched: Watched) -> None:
    watched.add(3)
    (request,) = watched.tick().run_requests
    job = watched.pipeline.defs.resolve_job_def("caption_job")
    result = job.execute_in_process(
        instance=watched.pipeline.instance,
        tags=dict(request.tags),
        asset_selection=[dg.AssetKey("media")],
    )
    assert result.success
    made = {event.partition for event in result.get_asset_materialization_events()}
    assert made == {"demo-000000", "demo-000001"}


def test_nothing_new_is_skipped_with_a_reason(watched: Watched) -> None:
    result = watched.tick()
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "no new pictures in demo (0 shards planned)"
    watched.add(2)
    watched.tick()
    assert watched.tick().skip_message == "no new pictures in demo (1 shards planned)"


def test_a_file_still_being_written_waits_until_it_settles(watched: Watched) -> None:
    watched.add(1)
    (young,) = watched.add(1, age=0.0)
    assert ranges(watched.tick()) == [("demo-000000", "demo-000000")]
    assert len(read_plan(watched.pipeline.lake, Shard("demo", 0))) == 1
    assert isinstance(watched.tick(), dg.SkipReason)
    os.utime(young, (time.time() - 30,) * 2)
    assert ranges(watched.tick()) == [("demo-000001", "demo-000001")]
    assert [Path(item.uri).name for item in read_plan(watched.pipeline.lake, Shard("demo", 1))] == [young.name]


def test_a_tick_that_dies_after_planning_is_made_good(watched: Watched) -> None:
    watched.add(3)
    lost = watched.tick(apply=False)
    assert watched.pipeline.shards == []
    again = watched.tick()
    assert ranges(again) == ranges(lost)
    assert [request.run_key for request in again.run_requests] == [request.run_key for request in lost.run_requests]
    assert watched.pipeline.shards == ["demo-000000", "demo-000001"]
    assert isinstance(watched.tick(), dg.SkipReason)


def test_a_tick_that_dies_between_partitions_and_cursor_is_made_good(watched: Watched) -> None:
    watched.add(2)
    watched.tick()
    watched.cursors.clear()
    watched.add(2)
    assert ranges(watched.tick()) == [("demo-000000", "demo-000001")]
    assert watched.pipeline.shards == ["demo-000000", "demo-000001"]


@pytest.mark.parametrize("cursor", [None, "", "7", "no JSON", '{"version": 0, "handed_over": 9}', "[]"])
def test_a_lost_cursor_asks_for_no_shard_with_media(watched: Watched, cursor: str | None) -> None:
    watched.add(6)
    watched.tick()
    watched.media(Shard("demo", 0), Shard("demo", 2))
    watched.cursors["demo"] = cursor
    assert ranges(watched.tick()) == [("demo-000001", "demo-000001")]


def test_two_datasets_do_not_mix(tmp_path: Path, pictures: Path) -> None:
    watched = Watched(tmp_path, pictures, ("a", "b"), shard_size=1)
    watched.add(1, "a")
    assert ranges(watched.tick("a")) == [("a-000000", "a-000000")]
    watched.add(2, "b")
    assert ranges(watched.tick("b")) == [("b-000000", "b-000001")]
    watched.add(1, "a")
    assert ranges(watched.tick("a")) == [("a-000001", "a-000001")]
    assert isinstance(watched.tick("b"), dg.SkipReason)
    # With the cursor gone, a range over both shards of `a` would take along the two of `b` between them.
    watched.cursors.clear()
    assert ranges(watched.tick("a")) == [("a-000000", "a-000000"), ("a-000001", "a-000001")]


def test_shards_planned_by_hand_are_handed_over_too(watched: Watched) -> None:
    watched.add(2)
    plan_dataset(watched.pipeline.lake, "demo", open_source(watched.pipeline.config, "demo"), 2)
    assert ranges(watched.tick()) == [("demo-000000", "demo-000000")]


@pytest.mark.parametrize("left", ["nothing", "a file"])
def test_a_folder_that_is_gone_is_a_reason_to_skip(watched: Watched, left: str) -> None:
    watched.add(2)
    watched.tick()
    shutil.rmtree(watched.home / "demo")
    if left == "a file":
        (watched.home / "demo").write_text("")
    result = watched.tick()
    assert isinstance(result, dg.SkipReason)
    assert str(watched.home / "demo") in str(result.skip_message)
    (watched.home / "demo").unlink(missing_ok=True)
    (watched.home / "demo").mkdir()
    watched.add(3)
    assert isinstance(watched.tick(), dg.SensorResult), "it goes on when the folder is back"


def test_a_broken_pipeline_file_is_an_error_not_a_skip(watched: Watched) -> None:
    watched.pipeline.config.file.write_text("lake: ./lake\n")
    with pytest.raises(Exception, match="datasets: is missing"):
        watched.tick()


def test_a_range_is_cut_to_what_one_run_may_take() -> None:
    shards = [Shard("demo", number) for number in range(120)]
    chunks = contiguous(shards, [shard.key for shard in shards])
    assert [len(chunk) for chunk in chunks] == [50, 50, 20]
    assert [shard for chunk in chunks for shard in chunk] == shards
    assert contiguous([], []) == []


def test_cursor_of_a_tick_can_be_read_back(watched: Watched) -> None:
    watched.add(5)
    assert handed_over(watched.tick().cursor) == 2
    assert watched.pipeline.lake.exists(layout.plan_file(Shard("demo", 2)))
    assert watched.pipeline.instance.has_dynamic_partition(SHARDS, "demo-000002")
