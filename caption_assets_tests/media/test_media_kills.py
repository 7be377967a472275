"""Killed for real, at any instant: the next run gives the bytes of one that nobody disturbed, and leaves nothing."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures, read_index
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets_tests.media.killing import age_scratch, complete, date_segments, deaths, delete, make_media, run
from caption_assets_tests.media.pictures import encode, noise
from caption_assets_tests.media.world import SHARD

_KILLS = 20
_PROVENANCE = {"run_id", "created_at", "attempts"}


def fill(folder: Path, pictures: int) -> None:
    """Pictures, of which each tenth is the double of another, and each fifteenth cannot be read."""
    folder.mkdir()
    for number in range(pictures):
        data = encode(
            noise(64, 48, number - number % 2 if number % 10 == 1 else number), "JPEG" if number % 3 else "PNG"
        )
        if number % 10 == 1:
            data = (folder / f"{number - 1:03}.jpg").read_bytes()
        if number % 15 == 7:
            data = data[: len(data) // 2]
        (folder / f"{number:03}.jpg").write_bytes(data)


def planned(root: Path, folder: Path) -> Lake:
    """A lake in which the folder's pictures are one planned shard."""
    lake = Lake(str(root))
    plan_dataset(lake, "d", FolderSource(folder), 10_000)
    return lake


def contents(root: Path) -> dict[str, Any]:
    """What two lakes must have in common: the names of their files, the segment's bytes, the tables' rows."""
    lake = Lake(str(root))
    tables = {"index": read_index(lake, SHARD), "failures": read_failures(lake, "media", SHARD)}
    files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    return {
        **{
            name: [{k: v for k, v in row.items() if k not in _PROVENANCE} for row in rows]
            for name, rows in tables.items()
        },
        "files": {name for name in files if not name.startswith("tombstones/")},
        "segments": {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if name.endswith(".tar")
        },
    }


def check_nothing_is_lost(root: Path) -> None:
    lake = Lake(str(root))
    rows = read_index(lake, SHARD) + read_failures(lake, "media", SHARD)
    assert sorted((row["uri"], row["etag"]) for row in rows) == sorted(item.key for item in read_plan(lake, SHARD))


def test_killed_at_random_instants(tmp_path: Path) -> None:
    pictures, template, lake = tmp_path / "pictures", tmp_path / "planned", tmp_path / "lake"
    fill(pictures, 300)
    planned(template, pictures)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(template, undisturbed)
    run(make_media, str(tmp_path / "none-of-it"), str(pictures))  # the server of processes is up from here on
    started = time.monotonic()
    assert run(make_media, str(undisturbed), str(pictures)) == 0
    whole = time.monotonic() - started
    expected = contents(undisturbed)
    assert 230 < len({row["media_id"] for row in expected["index"]}) < len(expected["index"]) < 300
    instants, killed = random.Random(1), 0
    while killed < _KILLS:
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(template, lake)
        killed += run(make_media, str(lake), str(pictures), seconds=instants.uniform(0, whole)) < 0
        age_scratch(lake)
        assert run(make_media, str(lake), str(pictures)) == 0
        assert contents(lake) == expected
        check_nothing_is_lost(lake)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    fill(tmp_path / "pictures", 20)
    return tmp_path


@pytest.mark.parametrize("repair", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["first", "repair"])
def test_killed_before_each_change_to_the_lake(small: Path, repair: bool) -> None:
    pictures, template, undisturbed = small / "pictures", small / "template", small / "undisturbed"
    planned(template, pictures)
    if repair:
        for number in (4, 13):
            (pictures / f"{number:03}.jpg").rename(small / f"{number:03}.jpg")
        assert run(make_media, str(template), str(pictures)) == 0
        for number in (4, 13):
            (small / f"{number:03}.jpg").rename(pictures / f"{number:03}.jpg")
    shutil.copytree(template, undisturbed)
    assert run(make_media, str(undisturbed), str(pictures)) == 0
    expected = contents(undisturbed)
    died = 0
    for died in deaths(template, small / "lake", make_media, str(pictures)):
        assert run(make_media, str(small / "lake"), str(pictures)) == 0
        assert contents(small / "lake") == expected, f"killed before change {died}"
        check_nothing_is_lost(small / "lake")
    assert died >= 8, "segment, failures, index, and the scratch files of each"


@pytest.mark.slow
def test_a_repair_killed_before_its_index_leaves_no_segment_though_nothing_comes_after_it(small: Path) -> None:
    """Its source fails again: the next run finds the shard as it was, and a segment that nobody knows."""
    pictures, away, template, lake = (small / name for name in ("pictures", "away", "template", "lake"))
    planned(template, pictures)
    away.mkdir()

    def move(source: Path, target: Path) -> None:
        for number in (4, 13):
            (source / f"{number:03}.jpg").rename(target / f"{number:03}.jpg")

    move(pictures, away)
    assert run(make_media, str(template), str(pictures)) == 0
    before = contents(template)
    move(away, pictures)
    orphans = 0
    for died in deaths(template, lake, make_media, str(pictures)):
        move(pictures, away)
        date_segments(lake, seconds_ago=60)
        segments = set(lake.rglob("*.tar"))
        assert run(make_media, str(lake), str(pictures)) == 0
        if contents(lake)["index"] == before["index"]:
            assert set(lake.rglob("*.tar")) == segments, "a run at the same time may have written it just now"
            orphans += len(segments) > 1
            date_segments(lake, seconds_ago=7200)
            assert run(make_media, str(lake), str(pictures)) == 0
            assert contents(lake) == before, f"killed before change {died}"
        assert len(list(lake.rglob("*.tar"))) == 1
        check_nothing_is_lost(lake)
        move(away, pictures)
    assert orphans >= 2, "killed between segment and index"


@pytest.mark.parametrize("finish", ["delete again", "media run", pytest.param("caption run", marks=pytest.mark.slow)])
def test_a_deletion_killed_before_each_change_is_completed(small: Path, finish: str) -> None:
    pictures, template, undisturbed, lake = (small / name for name in ("pictures", "template", "undisturbed", "lake"))
    assert run(make_media, str(planned(template, pictures).root), str(pictures)) == 0
    rows = read_index(Lake(str(template)), SHARD)
    doomed = [rows[0]["media_id"], rows[-1]["media_id"]]
    shutil.copytree(template, undisturbed)
    assert run(delete, str(undisturbed), *doomed) == 0
    expected = contents(undisturbed)
    assert [row["kind"] for row in expected["failures"]].count("deleted") == 3, "one of them is there twice"
    died = 0
    for died in deaths(template, lake, delete, *doomed):
        begun = any((lake / "tombstones").glob("*.parquet"))
        if finish == "delete again" or not begun:
            assert run(delete, str(lake), *doomed) == 0
        elif finish == "media run":
            assert run(make_media, str(lake), str(pictures)) == 0
        else:
            assert run(complete, str(lake), SHARD.key) == 0
        assert contents(lake) == expected, f"killed before change {died}"
        check_nothing_is_lost(lake)
        assert not any(row["media_id"] in doomed for row in read_index(Lake(str(lake)), SHARD))
    assert died >= 12, "tombstone, segment, failures, index, and the scratch files of each"
