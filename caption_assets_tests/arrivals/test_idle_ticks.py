"""A tick in which nothing comes costs little, however much there is, and what comes is found all the same."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from caption_assets.sources import folder as folder_module
from caption_assets.sources import folder_changes
from caption_assets.sources.folder_files import Looked, Piece
from caption_assets_tests.arrivals.world import Watch, config_of
from caption_assets_tests.sources.s3_stub import S3Stub, s3_stub
from caption_assets_tests.sources.test_source_folder import touch

FOLDERS = 6
LONG_AGO = time.time() - 10**6
A_PAGE = 1e-6
"""Seconds: an idle tick has time for a single page."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six folders of four pictures, made long ago."""
    for number in range(FOLDERS):
        add(tmp_path, *(f"{number}/{each}.jpg" for each in range(4)))
    return tmp_path


def add(home: Path, *names: str) -> None:
    for name in names:
        touch(home / "in" / name, mtime=LONG_AGO)


def quiet(home: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A folder whose times are known and old enough to be believed."""
    monkeypatch.setattr(folder_changes, "_YOUNG", 0)
    ticks = Watch(home, kind="folder", path="in", settle_seconds=0, scan_seconds=A_PAGE)
    ticks.until_quiet()
    for _ in range(3):
        ticks.tick()
    return ticks


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    """A bucket of 8,000 keys under 20 folders."""
    with s3_stub(S3Stub([f"{top:02}/{number:06d}.jpg" for top in range(20) for number in range(400)])) as stub:
        yield stub


def test_a_backlog_has_more_time_than_a_round_without_news(stub: S3Stub, tmp_path: Path) -> None:
    watch = Watch(tmp_path, kind="bucket", url="s3://b", shard_size=1000, scan_seconds=A_PAGE)
    assert watch.tick().new_items == 8_000
    asked, outcomes = stub.pages, watch.until_quiet()
    assert len(outcomes) > 1
    assert (stub.pages - asked) / len(outcomes) <= 10
    late = "03/000100-late.jpg"
    stub.keys = sorted([*stub.keys, late])
    watch.until_quiet()
    assert watch.planned[f"s3://b/{late}"] == 1
    assert not watch.gone


def test_what_comes_into_any_folder_is_found_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    for number in range(2, FOLDERS):  # together less than a shard
        add(home, f"{number}/new.jpg", f"{number}/below/new/a.jpg")
    assert ticks.tick().new_items == 2 * (FOLDERS - 2)
    assert ticks.tick().new_items == 0
    add(home, "5/below/new/b.jpg")
    assert ticks.tick().new_items == 1
    assert set(ticks.planned.values()) == {1}


def test_what_is_put_in_another_s_place_is_found_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    touch(home / "beside.jpg", b"another", mtime=LONG_AGO)
    (home / "beside.jpg").replace(home / "in/4/2.jpg")
    assert ticks.tick().new_items == 1


def test_a_file_written_to_in_its_place_is_found_by_the_scan(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    with (home / "in/4/2.jpg").open("ab") as file:
        file.write(b"more")
    assert sum(each.new_items for each in [ticks.tick(), *ticks.until_quiet()]) == 1
    ticks.until_quiet()
    assert len(ticks.gone) == 1, "what it was before"


def test_of_a_big_folder_only_unknown_names_are_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    monkeypatch.setattr(folder_changes, "_SMALL", 3)
    monkeypatch.setattr(folder_module, "_AHEAD", 0)
    looked: list[str] = []
    real = folder_module.look

    def look(pieces: Sequence[Piece]) -> list[Looked]:
        looked.extend(name for piece in pieces for name in piece.pictures)
        return real(pieces)

    monkeypatch.setattr(folder_module, "look", look)
    add(home, "5/new.jpg")
    assert ticks.tick().new_items == 1
    assert "new.jpg" in looked
    assert len(looked) <= 3, "it, and a page of the scan"


def test_a_folder_that_changed_just_now_is_not_believed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    monkeypatch.setattr(folder_changes, "_YOUNG", 10**12)
    add(home, "5/a.jpg")
    times = os.stat(home / "in/5")
    ticks.tick()
    add(home, "5/b.jpg")
    real = folder_changes._stamp
    same = times.st_mtime_ns, times.st_ctime_ns
    monkeypatch.setattr(folder_changes, "_stamp", lambda path: same if path.endswith("/5") else real(path))
    assert ticks.tick().new_items == 1, "although its times are what they were"


def test_what_has_not_settled_is_looked_at_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    ticks.config = config_of(home, {"kind": "folder", "path": "in", "settle_seconds": 3600, "scan_seconds": A_PAGE})
    touch(home / "in/5/new.jpg", mtime=time.time())
    assert ticks.tick().new_items == 0
    os.utime(home / "in/5/new.jpg", (LONG_AGO, LONG_AGO))
    assert ticks.tick().new_items == 1


@pytest.mark.parametrize("lost", ["cursor", "cache", "folders.json"])
def test_nothing_depends_on_what_is_kept_of_folders(home: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    ticks = quiet(home, monkeypatch)
    add(home, "5/new.jpg")
    if lost == "cursor":
        ticks.cursor = None
    elif lost == "cache":
        shutil.rmtree(os.environ["CAPTION_ASSETS_CACHE"])
    else:
        for file in Path(os.environ["CAPTION_ASSETS_CACHE"]).rglob("folders.json"):
            file.write_text(file.read_text()[:50])
    ticks.until_quiet()
    assert set(ticks.planned.values()) == {1}
    assert len(ticks.planned) == FOLDERS * 4 + 1


def test_folders_that_go_are_no_trouble(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = quiet(home, monkeypatch)
    shutil.rmtree(home / "in/3")
    (home / "in/2").rename(home / "in/9")
    assert ticks.tick().new_items == 4
    for _ in range(2):
        ticks.until_quiet()
    assert len(ticks.gone) == 8
