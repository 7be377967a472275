"""Kept counts say at any time what the catalog's views say, and count only what has changed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from caption_assets.counts import kept, listing
from caption_assets.counts.views import StillCounting, connect
from caption_assets.lake import layout, tables
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wants
from caption_assets.lake.departures import Departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import read_tombstones, write_tombstone
from caption_assets_tests.counts.history import PICTURES, History
from caption_assets_tests.lake.hand import TEXT, Hand, look

STEPS = 12


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAPTION_ASSETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lived(history: History, steps: int = STEPS) -> None:
    """Act, and compare after each step."""
    done = []
    for _ in range(steps):
        done.append(history.act())
        counts = history.kept()
        for name, answer in history.plain().items():
            assert counts[name] == answer, (name, done)


def _slowly(first: int, end: int) -> list[object]:
    """Further seeds, for those who have the minutes."""
    return [pytest.param(seed, marks=pytest.mark.slow) for seed in range(first, end)]


@pytest.mark.parametrize("seed", [0, *_slowly(1, 6)])
def test_whatever_happens_the_counts_are_those_of_the_views(cache: Path, tmp_path: Path, seed: int) -> None:
    history = History(str(tmp_path / "lake"), seed)
    lived(history, STEPS if seed else STEPS // 2)
    assert history.kept() == history.plain(sums=True)
    assert history.counted == 0, "nothing has changed since"
    shutil.rmtree(cache)
    assert history.kept() == history.plain(sums=True)
    assert history.counted > 0


@pytest.mark.parametrize("seed", _slowly(10, 13))
def test_the_same_on_a_store(cache: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(listing, "YOUNG_SECONDS", -3600.0)  # its tags tell two versions apart, however young
    history = History(f"memory://{uuid.uuid4().hex}/lake", seed)
    lived(history, 15)
    assert history.kept() == history.plain(sums=True)
    assert history.counted == 0


@pytest.mark.slow
def test_files_are_joined_and_nothing_is_lost(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MANY_FILES", 2)
    history = History(str(tmp_path / "lake"), 3)
    lived(history)
    history.kept()
    assert len([*cache.rglob("*.*.parquet")]) <= 3


class Small:
    """Three shards of two pictures, all captioned, and old enough to be kept."""

    def __init__(self, folder: Path) -> None:
        self.hand = Hand(Lake(str(folder / "lake")))
        self.wanted = {"look": look("f1")}
        self.normalisation = "n"
        self.shards = [Shard("demo", number) for number in range(3)]
        for place, shard in enumerate(self.shards):
            pictures = PICTURES[2 * place : 2 * place + 2]
            self.hand.media(shard, *pictures)
            self.hand.captions("look", "f1", TEXT, {each: {"caption": each} for each in pictures}, shard)
        self.age(1)

    def age(self, step: int) -> None:
        """Let everything be of a time long ago."""
        for path in Path(self.hand.lake.path("")).rglob("*"):
            if path.stat().st_mtime > tables.now().timestamp() - 100:
                os.utime(path, (1_000_000_000 + step,) * 2)

    def look(self) -> tuple[int, list[tuple[Any, ...]]]:
        """How many shards were counted, and done and open rows by shard."""
        counted, wants = [0], Wants(self.wanted, (), self.normalisation)
        with connect(self.hand.lake, wants, tell=lambda number, _: counted.append(number)) as views:
            rows = views.execute("SELECT done, missing, stale, total FROM status WHERE perspective = 'look'").fetchall()
            self.media = views.execute("SELECT done, stale FROM status WHERE perspective = 'media'").fetchall()
        return counted[-1], rows


@pytest.fixture
def small(cache: Path, tmp_path: Path) -> Small:
    return Small(tmp_path)


def test_only_what_changed_is_counted(small: Small) -> None:
    lake, whole = small.hand.lake, (2, 0, 0, 2)
    assert small.look() == (3, [whole] * 3)
    assert small.look() == (0, [whole] * 3)
    small.wanted = {"look": look("f2")}
    promote(lake, {"look": "f2"})
    assert small.look() == (0, [(0, 0, 2, 2)] * 3), "what is there is known by its form"
    small.hand.captions("look", "f2", TEXT, {PICTURES[0]: {"caption": "new"}}, small.shards[0])
    small.age(2)
    assert small.look() == (1, [(1, 0, 1, 2), (0, 0, 2, 2), (0, 0, 2, 2)])
    small.wanted = {"look": look("f1"), "new": look("n1")}
    promote(lake, {"look": "f1"})
    assert small.look()[0] == 1, "what is shown first counts where there are two"
    small.wanted = {"look": look("f1")}
    write_tombstone(lake, [{"media_id": PICTURES[2]}, {"media_id": "f" * 64}])
    assert small.look() == (1, [whole, (1, 0, 0, 1), whole])
    assert small.look()[0] == 0
    write_tombstone(lake, [{"dataset": "demo", "uri": PICTURES[4]}])
    assert small.look() == (1, [whole, (1, 0, 0, 1), (1, 0, 0, 1)])
    for file in read_tombstones(lake).files:
        lake.remove(file)
    assert small.look() == (2, [whole] * 3)
    record(lake, "demo", [Departed(small.shards[1].key, PICTURES[2], "1")], [], "r")
    assert small.look() == (1, [whole, (1, 0, 0, 1), whole])


def test_what_changed_a_moment_ago_may_change_again_unseen(small: Small) -> None:
    small.look()
    promote(small.hand.lake, {"look": "f2"})
    small.hand.captions("look", "f2", TEXT, {PICTURES[0]: {"caption": "new"}}, small.shards[0])
    folder = Path(small.hand.lake.path(layout.captions_folder("look", "f2", small.shards[0])))
    stamp = folder.stat().st_mtime_ns
    small.wanted = {"look": look("f2")}
    assert small.look()[1][0] == (1, 0, 1, 2)
    small.hand.captions("look", "f2", TEXT, {PICTURES[1]: {"caption": "new"}}, small.shards[0], minute=1)
    os.utime(folder, ns=(stamp, stamp))  # within the same tick of the clock
    assert small.look()[1][0] == (2, 0, 0, 2)


def test_another_form_of_media_makes_nothing_be_counted_again(small: Small) -> None:
    small.look()
    assert small.media == [(2, 0)] * 3
    small.normalisation = "smaller"
    assert small.look()[0] == 0
    assert small.media == [(0, 2)] * 3


def test_counting_goes_on_where_it_ended(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caption_assets.counts.counting._FIRST", 1)
    monkeypatch.setattr("caption_assets.counts.counting._MOST", 1)
    for left in (2, 1):
        with pytest.raises(StillCounting, match=f"{left} of 3 shards are still to be counted"):
            connect(small.hand.lake, Wants(small.wanted), seconds=0)
    connect(small.hand.lake, Wants(small.wanted), seconds=0).close()
    assert small.look()[0] == 0


def test_a_damaged_file_is_made_anew(small: Small, cache: Path) -> None:
    expected = small.look()[1]
    for file in cache.glob("counts/*/*/*.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    assert small.look() == (3, expected)
    assert small.look()[0] == 0


def test_another_lake_in_the_same_place_is_noticed(small: Small, tmp_path: Path) -> None:
    small.look()
    shutil.rmtree(tmp_path / "lake")
    other = Small(tmp_path)
    other.hand.lake.remove_folder(layout.captions_folder("look", "f1", other.shards[0]))
    assert other.look()[1] == [(0, 2, 0, 2), (2, 0, 0, 2), (2, 0, 0, 2)]


def _look(root: str, seed: int) -> dict[str, Any]:
    kept._MANY_FILES = 1
    history = History(root, seed)
    return history.kept()


@pytest.mark.slow
def test_processes_share_what_they_count(cache: Path, tmp_path: Path) -> None:
    history = History(str(tmp_path / "lake"), 5)
    for _ in range(20):
        history.arrive()
        history.caption()
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        answers = [pool.submit(_look, str(tmp_path / "lake"), seed) for seed in range(8)]
        plain = history.plain(sums=True)
        for answer in answers:
            assert answer.result() == plain
    assert history.kept() == plain
