"""Ticks on a folder: pages, settling, waiting for others, what left and came back."""

from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

from caption_assets.arrivals import scan
from caption_assets.arrivals.waiting import LONGEST_SECONDS, read_waiting, wait_seconds
from caption_assets.sources import folder as folder_module
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import open_source, plan_dataset
from caption_assets_tests.arrivals.world import Watch
from caption_assets_tests.sources.test_source_folder import touch


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def watch(home: Path, **options: object) -> Watch:
    return Watch(home, kind="folder", path="in", **options)


def add(home: Path, *names: str, age: float = 60.0) -> None:
    for name in names:
        touch(home / "in" / name, mtime=time.time() - age)


def names(uris: object) -> list[str]:
    return sorted(Path(uri).name for uri in uris)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_pages_go_on_from_any_place(home: Path, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", page)
    add(home, "b.jpg", "a/z.jpg", "a.jpg", "a-b.jpg", "a/b/c.jpg", "a/b.jpg", "B.jpg", "ä.jpg", "c/d/e/f.jpg", "no.md")
    source = FolderSource(home / "in")
    found, place = [], ""
    for _ in range(40):
        first = next(source.pages(place))  # a new listing each time
        found += first.items + [item for run in first.runs for item in run.items()]
        place = first.after
        if first.last:
            break
    assert found == list(source.scan())


def test_a_scan_of_many_ticks_finds_everything_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 3)
    monkeypatch.setattr(scan, "SCAN_SECONDS", 0.0)
    add(home, *(f"{number % 4}/{number:02}.jpg" for number in range(25)))
    ticks = watch(home)
    first = ticks.tick()
    assert first.new_items == 3
    assert first.notes == ["scan: 3 of ? listed"]
    outcomes = ticks.until_quiet()
    assert len(outcomes) >= 8
    assert sorted(ticks.planned.values()) == [1] * 25
    assert not ticks.gone
    (home / "in/0/00.jpg").unlink()
    ticks.until_quiet()
    ticks.until_quiet()
    assert names(ticks.gone) == ["00.jpg"]


def test_a_round_whose_notes_are_lost_marks_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 3)
    monkeypatch.setattr(scan, "SCAN_SECONDS", 0.0)
    add(home, *(f"{number:02}.jpg" for number in range(25)))
    ticks = watch(home)
    ticks.until_quiet()
    for _ in range(3):
        ticks.tick()
    shutil.rmtree(os.environ["CAPTION_ASSETS_CACHE"])
    ticks.tick()
    ticks.until_quiet()
    assert not ticks.gone
    assert sorted(ticks.planned.values()) == [1] * 25


def test_a_lone_picture_waits_for_others_and_not_for_ever(home: Path) -> None:
    ticks = watch(home, max_wait_seconds=100, settle_seconds=0)
    add(home, "a.jpg", age=0)
    first = ticks.tick()
    assert (first.new_items, first.notes) == (0, ["1 new pictures wait up to 100 s for others"])
    assert [item.uri for item, _ in read_waiting(ticks.lake, "d")] == [str(home / "in/a.jpg")]
    ticks.tick()
    add(home, "b.jpg", age=-30)
    ticks.tick()
    assert not ticks.planned
    assert ticks.tick(seconds=60).new_items == 0
    assert ticks.tick().new_items == 2
    assert ticks.sizes == [2]
    assert read_waiting(ticks.lake, "d") == []


def test_a_full_shard_does_not_wait(home: Path) -> None:
    ticks = watch(home, max_wait_seconds=3600, settle_seconds=0)
    add(home, *(f"{number:02}.jpg" for number in range(23)), age=0)
    assert ticks.tick().new_items == 20
    assert ticks.sizes == [10, 10]
    assert len(read_waiting(ticks.lake, "d")) == 3


def test_what_waits_is_planned_although_its_cursor_is_lost(home: Path) -> None:
    ticks = watch(home, max_wait_seconds=100, settle_seconds=0)
    add(home, "a.jpg", age=0)
    ticks.tick(keep=False)
    ticks.tick(keep=False, minutes=3)
    ticks.tick(keep=False)
    assert names(ticks.planned) == ["a.jpg"]
    assert set(ticks.planned.values()) == {1}


def test_the_job_plans_what_waits_and_the_sensor_does_not_do_it_again(home: Path) -> None:
    ticks = watch(home, max_wait_seconds=100, settle_seconds=0)
    add(home, "a.jpg", age=0)
    ticks.tick()
    assert plan_dataset(ticks.lake, "d", open_source(ticks.config, "d"), 10).new_items == 1
    ticks.tick(minutes=5)
    ticks.tick()
    assert ticks.sizes == [1]
    assert read_waiting(ticks.lake, "d") == []


def test_the_wait_grows_with_the_small_shards_of_a_day() -> None:
    assert [wait_seconds(30, small) for small in (0, 15, 16, 32, 48, 111, 112, 10**6)] == [
        30, 30, 60, 120, 240, 30 * 2**6, LONGEST_SECONDS, LONGEST_SECONDS,
    ]  # fmt: skip
    assert wait_seconds(0, 1000) == 0
    assert wait_seconds(3600, 10**9) == 3600


def test_a_trickle_makes_few_shards_a_day(home: Path) -> None:
    ticks = watch(home, max_wait_seconds=30, settle_seconds=0, shard_size=100_000)
    ticks.now = ticks.now.replace(hour=0, minute=0, second=0)
    for number in range(120):
        add(home, f"{number:03}.jpg", age=10**6)  # old ones, too
        ticks.tick(minutes=2)
    assert 16 <= len(ticks.sizes) < 70, "not 120"
    assert sum(ticks.sizes) >= 110


def test_a_file_still_being_written_is_taken_once_it_settled(home: Path) -> None:
    ticks = watch(home, settle_seconds=1000)
    add(home, "a.jpg", age=0)
    add(home, "b.jpg", age=5000)
    ticks.tick()
    assert names(ticks.planned) == ["b.jpg"]
    add(home, "a.jpg", age=2000)
    ticks.tick()
    assert names(ticks.planned) == ["a.jpg", "b.jpg"]


def test_a_planned_file_that_is_unsettled_is_not_gone(home: Path) -> None:
    ticks = watch(home, settle_seconds=1000)
    add(home, "a.jpg", "b.jpg", age=0)
    plan_dataset(ticks.lake, "d", open_source(ticks.config, "d"), 10)
    ticks.tick()
    assert not ticks.gone


def test_deleted_replaced_and_returned(home: Path) -> None:
    ticks = watch(home, settle_seconds=0)
    add(home, "a.jpg", "b.jpg", "c.jpg")
    kept = shutil.copy2(home / "in/b.jpg", home / "kept.jpg")
    ticks.tick()
    (home / "in/b.jpg").unlink()
    touch(home / "in/c.jpg", b"another", mtime=time.time() - 500)
    outcome = ticks.tick()
    assert outcome.new_items == 1
    assert "marked as 2 gone" in outcome.notes
    assert names(ticks.gone) == ["b.jpg", "c.jpg"], "of c.jpg, the old one"
    assert ticks.tick().notes == []
    shutil.copy2(kept, home / "in/b.jpg")
    assert "marked as 1 back" in ticks.tick().notes
    assert names(ticks.gone) == ["c.jpg"]
    assert sum(ticks.planned.values()) == 4


def test_a_mount_that_is_away_marks_nothing(home: Path) -> None:
    ticks = watch(home, settle_seconds=0, shard_size=1000)
    add(home, *(f"{number:03}.jpg" for number in range(120)))
    ticks.tick()
    (home / "in").rename(home / "away")
    outcome = ticks.tick()
    assert isinstance(outcome.problem, FileNotFoundError)
    (home / "in").mkdir()
    (outcome,) = [ticks.tick()]
    assert "nothing is marked as gone: none of 120 planned items is there" in outcome.notes[0]
    assert not ticks.gone
    add(home, "new.jpg")
    for _ in range(2):
        outcome = ticks.tick()
    assert "nothing is marked as gone: 1 of 121 planned items is there" in outcome.notes[0]
    assert not ticks.gone


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_read_is_not_gone(home: Path) -> None:
    ticks = watch(home, settle_seconds=0)
    add(home, "a.jpg", "sub/b.jpg")
    ticks.tick()
    (home / "in/sub").chmod(0)
    ticks.tick()
    assert not ticks.gone
    (home / "in/sub").chmod(0o700)


def test_an_unreadable_part_of_a_round_marks_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = watch(home, settle_seconds=0)
    add(home, "a.jpg", "sub/b.jpg")
    ticks.tick()
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    ticks.tick()
    assert not ticks.gone


def test_a_list_is_read_when_it_changed(home: Path) -> None:
    file = home / "list.jsonl"
    touch(home / "a.jpg")
    file.write_text('{"path": "a.jpg"}\n')
    ticks = Watch(home, kind="jsonl", path="list.jsonl")
    assert ticks.tick().new_items == 1
    assert ticks.tick().notes == ["unchanged"]
    touch(home / "b.jpg")
    file.write_text('{"path": "a.jpg"}\n{"path": "b.jpg"}\n')
    assert ticks.tick().new_items == 1
    assert ticks.tick().notes == ["unchanged"]
    ticks.now += timedelta(hours=2)
    assert ticks.tick().notes == [], "what it names may have changed"
    file.unlink()
    assert isinstance(ticks.tick().problem, FileNotFoundError)
