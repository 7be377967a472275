"""Files that did not change are recognised together, and nothing that changed is taken for what it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caption_assets.arrivals import runs as runs_module
from caption_assets.arrivals import seen as seen_module
from caption_assets.lake.store import Lake
from caption_assets.sources import folder as folder_module
from caption_assets.sources import folder_files
from caption_assets.sources.base import Item
from caption_assets.sources.cache import cache_folder
from caption_assets.sources.files import FileFilter
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.folder_files import Looked
from caption_assets.sources.identities import ids_of
from caption_assets.sources.known import Known
from caption_assets_tests.arrivals.world import Watch
from caption_assets_tests.sources.test_source_folder import touch

LONG_AGO = time.time() - 10**6


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which items were made."""
    found: list[str] = []
    real = Looked.items

    def items(self: Looked, files: FileFilter) -> list[Item]:
        found.extend(self.names)
        return real(self, files)

    monkeypatch.setattr(Looked, "items", items)
    return found


@pytest.fixture
def ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Five folders of four pictures, planned."""
    monkeypatch.setattr(folder_module, "_PAGE", 2)
    for number in range(5):
        for each in range(4):
            touch(tmp_path / f"in/{number}/{number}{each}.jpg", mtime=LONG_AGO)
    watch = Watch(tmp_path, kind="folder", path="in", settle_seconds=0)
    watch.until_quiet()
    return watch


def of_round(ticks: Watch, made: list[str]) -> list[str]:
    """What a whole round makes items of."""
    made.clear()
    ticks.until_quiet()
    return sorted(made)


def test_items_are_made_once(ticks: Watch, made: list[str]) -> None:
    assert of_round(ticks, made) == []
    assert not ticks.gone


@pytest.mark.parametrize(
    ("change", "new", "gone"),
    [
        (lambda home: touch(home / "in/3/30.jpg", b"longer", mtime=LONG_AGO), 1, 1),
        (lambda home: touch(home / "in/3/30.jpg", mtime=LONG_AGO + 1), 1, 1),
        (lambda home: (home / "in/3/30.jpg").rename(home / "in/3/3x.jpg"), 1, 1),
        (lambda home: (home / "in/3/30.jpg").unlink(), 0, 1),
        (lambda home: touch(home / "in/3/30.webp", mtime=LONG_AGO), 1, 0),
        (lambda home: (home / "in/3").rename(home / "in/9"), 4, 4),
    ],
    ids=["size", "time", "name", "deletion", "addition", "folder"],
)
def test_what_changed_is_found(
    ticks: Watch, made: list[str], tmp_path: Path, change: Callable[[Path], object], new: int, gone: int
) -> None:
    change(tmp_path)
    made.clear()
    assert sum(each.new_items for each in ticks.until_quiet()) == new
    assert len(ticks.gone) == gone
    assert not [name for name in made if name[0] != "3"], "of the other folders no item was made"
    assert of_round(ticks, made) == []


def test_two_files_that_change_places_are_two_others(ticks: Watch, tmp_path: Path) -> None:
    touch(tmp_path / "in/0/00.jpg", b"longer", mtime=LONG_AGO)
    ticks.until_quiet()
    for old, new in [("00", "x"), ("01", "00"), ("x", "01")]:
        (tmp_path / f"in/0/{old}.jpg").rename(tmp_path / f"in/0/{new}.jpg")
    ticks.until_quiet()
    assert ticks.planned[str(tmp_path / "in/0/00.jpg")] == 2, "it is again what it was first, and planned then"
    assert ticks.planned[str(tmp_path / "in/0/01.jpg")] == 2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def misalign(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"torn")


def other_numbers(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("spoil", [cut, misalign, other_numbers, os.remove, lambda file: shutil.rmtree(file.parent)])
def test_what_is_damaged_is_made_again(ticks: Watch, made: list[str], spoil: Callable[[Path], object]) -> None:
    (file,) = cache_folder("runs", ticks.lake, "d").glob("*.rows")
    spoil(file)
    assert of_round(ticks, made)
    assert of_round(ticks, made) == [], "and kept again"
    assert sorted(ticks.planned.values()) == [1] * 20
    assert not ticks.gone


def test_the_identities_of_another_run_are_not_taken(ticks: Watch) -> None:
    folder, known = cache_folder("runs", ticks.lake, "d"), Known(ticks.lake, "d")
    ids = next(known.parts())[0]
    one, other = (folder_module.Run(bytes([number]) * 16, 4, list) for number in (1, 2))
    (file,) = folder.glob("*.rows")
    for run, start in ((one, 0), (other, 4)):
        file.unlink()
        seen = runs_module.SeenRuns(folder, known)
        seen.add(run, ids[:, start : start + 4])
        seen.store()
    assert runs_module.SeenRuns(folder, known).find([one, other]) == [False, True]


def test_damage_that_shows_late_marks_nothing_as_gone(ticks: Watch, made: list[str], tmp_path: Path) -> None:
    (file,) = cache_folder("runs", ticks.lake, "d").glob("*.rows")
    rows = np.fromfile(file, np.uint64).reshape(-1, 2)
    rows[-1, 0] += np.uint64(1)
    rows.tofile(file)
    (tmp_path / "in/0/00.jpg").unlink()
    (note,) = [note for each in ticks.until_quiet() for note in each.notes if "lost" in note]
    assert note == "what this round saw was lost; the next one tells what is gone"
    assert not ticks.gone
    made.clear()
    ticks.until_quiet()
    assert len(made) == 16, "all that was kept before"
    assert list(ticks.gone) == [str(tmp_path / "in/0/00.jpg")]


@pytest.mark.parametrize("seconds", [1e-6, 5])
def test_what_is_gone_is_told_by_a_round_of_any_number_of_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 2)
    monkeypatch.setattr(seen_module, "_LARGEST", 3)
    for number in range(30):
        touch(tmp_path / f"in/{number // 5}/{number}.jpg", mtime=LONG_AGO)
    ticks = Watch(tmp_path, kind="folder", path="in", settle_seconds=0, scan_seconds=seconds)
    ticks.until_quiet()
    for name in ("0/3", "2/10", "2/11"):
        (tmp_path / f"in/{name}.jpg").unlink()
    ticks.until_quiet()
    ticks.until_quiet()
    assert sorted(uri[-6:-4] for uri in ticks.gone) == ["/3", "10", "11"]
    touch(tmp_path / "in/2/11.jpg", mtime=LONG_AGO)
    ticks.until_quiet()
    ticks.until_quiet()
    assert sorted(uri[-6:-4] for uri in ticks.gone) == ["/3", "10"]


@pytest.mark.parametrize("change", [lambda home: None, lambda home: (home / "in/4/43.jpg").unlink()], ids=["no", "yes"])
def test_where_all_is_there_nothing_is_looked_up(
    ticks: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    looked: list[int] = []
    real = seen_module.Seen.has
    monkeypatch.setattr(seen_module.Seen, "has", lambda self, ids: looked.append(ids.shape[1]) or real(self, ids))
    change(tmp_path)
    ticks.until_quiet()
    assert bool(looked) == bool(ticks.gone)
    looked.clear()
    ticks.until_quiet()
    assert not looked, "what is marked is not missed again"


def test_nothing_of_another_lake_in_the_same_place_is_believed(ticks: Watch, made: list[str]) -> None:
    ticks.lake.remove_folder("shards")
    ticks.cursor = None
    ticks.until_quiet()
    assert sorted(ticks.planned.values()) == [1] * 20


def test_what_is_not_planned_yet_is_not_kept(tmp_path: Path, made: list[str]) -> None:
    touch(tmp_path / "in/a.jpg", mtime=time.time())
    ticks = Watch(tmp_path, kind="folder", path="in", settle_seconds=0, max_wait_seconds=3600)
    for _ in range(3):
        made.clear()
        ticks.tick()
        assert made == ["a.jpg"]


def test_runs_that_are_no_more_are_forgotten(
    ticks: Watch, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "_SPARE", 20)
    sizes = []
    for change in range(25):
        touch(tmp_path / "in/0/00.jpg", mtime=LONG_AGO + 1 + change)
        ticks.until_quiet()
        sizes.append(sum(file.stat().st_size for file in cache_folder("runs", ticks.lake, "d").glob("*.rows")))
    assert max(sizes) < 2000
    assert sizes != sorted(sizes), "it was begun anew"
    assert not [uri for uri in ticks.planned if not uri.endswith("00.jpg") and uri in ticks.gone]


def test_two_daemons_share_what_is_kept(ticks: Watch, made: list[str], tmp_path: Path) -> None:
    known = Known(Lake(ticks.config.lake), "d")
    other = runs_module.SeenRuns(cache_folder("runs", ticks.lake, "d"), known)
    touch(tmp_path / "in/0/00.jpg", mtime=LONG_AGO + 1)
    ticks.until_quiet()
    known.catch_up()
    ids = next(known.parts())[0][:, :3]
    run = folder_module.Run(b"0123456789abcdef", 3, list)
    other.add(run, ids)
    other.store()
    again = runs_module.SeenRuns(cache_folder("runs", ticks.lake, "d"), known)
    assert again.find([run]) == [True]
    (found,) = again.identities(ids_of(run.digest), most=100)
    assert set(found[0].tolist()) == set(ids[0].tolist())
    assert of_round(ticks, made) == []


def test_a_new_name_leaves_most_of_a_big_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 40)
    monkeypatch.setattr(folder_files, "_CUT", 16)
    for number in range(2000):
        touch(tmp_path / f"in/{number:04}.jpg", mtime=LONG_AGO)
    source = FolderSource(tmp_path / "in")

    def digests() -> set[bytes]:
        return {run.digest for page in source.pages() for run in page.runs}

    before = digests()
    assert len(before) > 100
    touch(tmp_path / "in/0000a.jpg", mtime=LONG_AGO)
    assert len(digests() - before) < 10
