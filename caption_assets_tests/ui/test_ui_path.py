"""The whole path in Dagster's own UI, on the real model: plan, one shard, a backfill, what the pages say, arrivals.

Each fixture is a person's next step and waits for the one before, so that any test can be run alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from caption_assets.captioning.catalog import open_views
from caption_assets.demo.scenes import write_scenes
from caption_assets_tests.ui.browser import Ui, find_chromium, open_ui
from caption_assets_tests.ui.dev_server import DATASET, SHARD_SIZE, DevServer, dev_server, wait_for

CHROMIUM = find_chromium()
PICTURES, ARRIVALS = 64, 20
FIRST, *REST = SHARDS = [f"{DATASET}-{number:06d}" for number in range(PICTURES // SHARD_SIZE)]
ARRIVED = [f"{DATASET}-{number:06d}" for number in (4, 5)]
PERSPECTIVES = ["scene_caption", "scene_count", "scene_objects", "synthesized_caption"]
MEDIA_AND_CAPTIONS = 'group:"captions" or key:"media"'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")


@dataclass(frozen=True)
class Arrival:
    """What the sensor made of new pictures: how many ticks until its run was requested, and that run."""

    ticks: int
    run: str
    files_before: dict[str, str]
    events_before: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    with dev_server(tmp_path_factory.mktemp("ui")) as running:
        yield running


@pytest.fixture(scope="module")
def ui(server: DevServer) -> Iterator[Ui]:
    assert CHROMIUM is not None
    with open_ui(CHROMIUM, server) as opened:
        yield opened


@pytest.fixture(scope="module")
def idle_tick(ui: Ui) -> str:
    """What a tick says while the watched folder is empty. Afterwards the sensor is off, for people to do its work."""
    expect(ui.open_sensor()).to_be_checked()
    wait_for("a first tick", ui.server.ticks)
    ui.shot("sensor")
    told = ui.open_first_tick().inner_text()
    ui.shot("tick-nothing-new")
    ui.switch_sensor(on=False)
    return told


@pytest.fixture(scope="module")
def planned(ui: Ui, idle_tick: str) -> str:
    """The run that planned the dataset, from the asset graph."""
    assert idle_tick
    write_scenes(ui.server.pictures, PICTURES, seed=7)
    dialog = ui.open_materialize_dialog('key:"datasets"')
    ui.pick_partition(dialog, DATASET)
    run = ui.launch_run(dialog)
    ui.shot("run-datasets")
    return run


@pytest.fixture(scope="module")
def first_shard(ui: Ui, planned: str) -> str:
    """The run that brought media and captions of one shard."""
    assert planned
    ui.open_graph(MEDIA_AND_CAPTIONS)
    expect(ui.page.get_by_text("fetching statuses")).to_have_count(0)
    ui.shot("graph")
    dialog = ui.open_materialize_dialog(MEDIA_AND_CAPTIONS)
    ui.pick_partition(dialog, FIRST)
    ui.shot("dialog-one-shard")
    run = ui.launch_run(dialog)
    ui.shot("run-one-shard")
    return run


@pytest.fixture(scope="module")
def backfill(ui: Ui, first_shard: str) -> str:
    """The backfill of all shards that were missing."""
    assert first_shard
    dialog = ui.open_materialize_dialog(MEDIA_AND_CAPTIONS)
    dialog.get_by_role("button", name="Missing", exact=True).click()
    expect(dialog.get_by_text(f"{len(REST)} partitions", exact=True)).to_be_visible()
    ui.shot("dialog-backfill")
    backfill = ui.launch_backfill(dialog)
    ui.shot("backfill")
    return backfill


@pytest.fixture(scope="module")
def arrival(ui: Ui, backfill: str, tmp_path_factory: pytest.TempPathFactory) -> Arrival:
    """Twenty more pictures in the watched folder, of a dataset whose shards people have done, with the sensor on."""
    assert backfill
    server = ui.server
    files, events = digests(server.lake, SHARDS), count_events(server)
    before = len(server.ticks())
    ui.switch_sensor(on=True)
    drop_pictures(server.pictures, tmp_path_factory.mktemp("arriving"))
    ticks = wait_for("a tick that launches a run", lambda: new_ticks_up_to_a_run(server, before))
    (run,) = ticks[0]["runIds"]
    wait_for("the arrivals' run", lambda: server.run_status(run) in {"SUCCESS", "FAILURE", "CANCELED"})
    return Arrival(len(ticks), run, files, events)


def test_a_watched_dataset_has_a_running_sensor_that_says_why_it_does_nothing(idle_tick: str) -> None:
    assert f"no new pictures in {DATASET}" in idle_tick


def test_planning_registers_the_shards_for_the_partition_picker(ui: Ui, planned: str) -> None:
    assert ui.server.run_status(planned) == "SUCCESS"
    with open_views(ui.server.config) as views:
        rows = views.execute("SELECT shard, planned FROM shards ORDER BY shard").fetchall()
    assert rows[: len(SHARDS)] == [(shard, SHARD_SIZE) for shard in SHARDS]
    ui.open("assets/media?view=partitions")
    for shard in SHARDS:
        expect(ui.page.get_by_text(shard).first).to_be_visible()


@pytest.mark.slow
def test_one_shard_is_materialized_from_the_graph(ui: Ui, first_shard: str) -> None:
    assert ui.server.run_status(first_shard) == "SUCCESS"
    assert captioned(ui.server)[FIRST] == dict.fromkeys(PERSPECTIVES, SHARD_SIZE)
    assert len(model_loads(ui.server, first_shard)) == 1


@pytest.mark.slow
def test_a_backfill_of_three_shards_is_one_run_with_one_model_load(ui: Ui, backfill: str) -> None:
    (run,) = ui.server.backfill_runs(backfill)
    assert len(model_loads(ui.server, run)) == 1
    found = captioned(ui.server)
    assert {shard: found[shard] for shard in SHARDS} == {
        shard: dict.fromkeys(PERSPECTIVES, SHARD_SIZE) for shard in SHARDS
    }


@pytest.mark.slow
def test_the_page_of_a_shard_shows_what_was_made_and_how_fast(ui: Ui, backfill: str) -> None:
    assert backfill
    rows = ui.open_partition("captions/synthesized_caption", FIRST)
    ui.shot("partition")
    for label, value in {
        "pictures": rf"{SHARD_SIZE}",
        "failed": "0",
        "pictures per second": r"[\d.]+",
        "tokens per second": r"[\d.]+",
    }.items():
        expect(rows.filter(has_text=re.compile(rf"^{label}\s*{value}\s*$"))).to_have_count(1)
    ui.open("assets/captions/synthesized_caption?view=checks")
    expect(ui.page.get_by_text("Passed").first).to_be_visible()
    expect(ui.page.get_by_text("complete", exact=True).first).to_be_visible()
    ui.shot("checks")


@pytest.mark.slow
@pytest.mark.parametrize("asset", ["media", *(f"captions/{name}" for name in PERSPECTIVES)])
def test_previews_show_the_pictures(ui: Ui, backfill: str, asset: str) -> None:
    assert backfill
    ui.open_partition(asset, FIRST).filter(has_text="preview").get_by_text("Show Markdown").click()
    dialog = ui.page.get_by_role("dialog").filter(has=ui.page.locator("img"))
    widths = dialog.locator("img").evaluate_all("images => images.map(each => each.naturalWidth)")
    ui.shot(f"preview-{asset.rsplit('/', 1)[-1]}")
    assert len(widths) == 4
    assert all(width > 0 for width in widths)
    if asset == "captions/synthesized_caption":
        with open_views(ui.server.config) as views:
            captions = views.execute(
                "SELECT output.caption FROM captions_synthesized_caption WHERE shard = ?", [FIRST]
            ).fetchall()
        shown = dialog.inner_text()
        assert sum(caption in shown for (caption,) in captions) >= 4


@pytest.mark.slow
def test_pictures_that_arrive_are_captioned_within_two_ticks(ui: Ui, arrival: Arrival) -> None:
    assert arrival.ticks <= 2
    assert ui.server.run_status(arrival.run) == "SUCCESS"
    found = captioned(ui.server)
    assert {name: found[ARRIVED[0]][name] + found[ARRIVED[1]][name] for name in PERSPECTIVES} == dict.fromkeys(
        PERSPECTIVES, ARRIVALS
    )
    assert len(model_loads(ui.server, arrival.run)) == 1


@pytest.mark.slow
def test_arrivals_leave_finished_shards_alone(ui: Ui, arrival: Arrival) -> None:
    assert digests(ui.server.lake, SHARDS) == arrival.files_before
    assert count_events(ui.server) == arrival.events_before


@pytest.mark.slow
def test_the_tick_says_what_it_launched(ui: Ui, arrival: Arrival) -> None:
    ui.open_sensor()
    ui.shot("sensor-after-arrival")
    dialog = ui.open_tick_with_run()
    expect(dialog).to_contain_text(arrival.run[:8])
    ui.shot("tick-arrival")
    expect(dialog).to_contain_text(f"{ARRIVALS} new pictures → shards {', '.join(ARRIVED)}")


def new_ticks_up_to_a_run(server: DevServer, before: int) -> list[dict[str, Any]]:
    """The ticks after the first `before`, latest first, as soon as the latest has launched something."""
    ticks = server.ticks()
    new = ticks[: len(ticks) - before]
    return new if new and new[0]["runIds"] else []


def drop_pictures(folder: Path, drawn: Path) -> None:
    """Move a folder of new pictures, none of them just written, into the watched folder."""
    for picture in write_scenes(drawn / "new", ARRIVALS, seed=8):
        os.utime(picture, times=(picture.stat().st_atime, picture.stat().st_mtime - 60))
    (drawn / "new").rename(folder / "new")


def captioned(server: DevServer) -> dict[str, dict[str, int]]:
    """Captioned pictures by shard and perspective; each of them in the media view too, and nothing failed."""
    with open_views(server.config) as views:
        assert views.execute("SELECT * FROM failures").fetchall() == []
        rows = views.execute(
            """SELECT shard, perspective, count(DISTINCT media_id) FROM captions JOIN media USING (media_id, shard)
            GROUP BY ALL"""
        ).fetchall()
    found: dict[str, dict[str, int]] = {}
    for shard, perspective, count in rows:
        found.setdefault(shard, {})[perspective] = count
    return found


def model_loads(server: DevServer, run: str) -> list[str]:
    """The lines of a run's log that tell of a loaded model."""
    return [message for message in server.messages(run) if re.search(r" loaded in [\d.]+ s", message)]


def digests(lake: Path, shards: list[str]) -> dict[str, str]:
    """Digests of all files that belong to these shards."""
    files = [path for path in lake.rglob("*") if path.is_file() and any(shard in str(path) for shard in shards)]
    kept = [path for path in files if path.relative_to(lake).parts[0] != "runs"]
    assert kept
    return {str(path.relative_to(lake)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def count_events(server: DevServer) -> int:
    """Materializations of the first shards, of media and all captions."""
    assets = [["media"], *(["captions", name] for name in PERSPECTIVES)]
    return sum(server.materializations(asset, SHARDS) for asset in assets)
