"""Pictures that stand close together are read in one go, and come as if each had been read alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import Media
from caption_assets.lake.store import Lake
from caption_assets.media.stored import read_close_together, read_picture
from caption_assets_tests.media.pictures import encode, noise
from caption_assets_tests.media.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "pictures").mkdir()
    world = World(Lake(str(tmp_path / "lake")), tmp_path / "pictures", Media())
    world.build()
    return world


@pytest.fixture
def ranges(world: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is asked of the lake."""
    asked: list[tuple[str, int, int]] = []
    real = world.lake.read_range
    monkeypatch.setattr(world.lake, "read_range", lambda *request: asked.append(request) or real(*request))
    return asked


def alone(world: World, rows: list[dict[str, Any]]) -> list[bytes]:
    lake = Lake(world.lake.root)
    return [read_picture(lake, row) for row in rows]


def test_neighbours_come_in_one_range_read(world: World, ranges: list[tuple[str, int, int]]) -> None:
    distinct = list({row["media_id"]: row for row in world.rows()}.values())
    assert read_close_together(world.lake, distinct) == alone(world, distinct)
    assert len(ranges) == 1


def test_in_any_order_and_twice(world: World, ranges: list[tuple[str, int, int]]) -> None:
    rows = random.Random(3).sample([*world.rows(), *world.rows()], 14)
    assert read_close_together(world.lake, rows) == alone(world, rows)
    assert len(ranges) > 1


def test_what_lies_between_is_not_read_along_where_it_is_much(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / f"pictures/{number}.png").write_bytes(encode(noise(400, 300, number), "PNG"))
    world = World(Lake(str(tmp_path / "lake")), tmp_path / "pictures", Media(keep_originals=True, max_pixels=4096))
    world.build()
    asked: list[int] = []
    real = world.lake.read_range
    world.lake.read_range = lambda path, start, length: asked.append(length) or real(path, start, length)  # type: ignore
    assert read_close_together(world.lake, world.rows()) == alone(world, world.rows())
    assert asked == [row["length"] for row in world.rows()]


def test_a_segment_that_was_replaced_or_is_gone(world: World) -> None:
    before = world.rows()
    (world.folder / "new.jpg").write_bytes((world.folder / "0.jpg").read_bytes())
    world.build(media=Media(max_pixels=2048))
    assert read_close_together(world.lake, before) == alone(world, before)
    world.lake.remove(f"media/dataset=d/{world.rows()[0]['segment']}")
    found = read_close_together(world.lake, before)
    assert len(found) == len(before)
    assert all(isinstance(each, FileNotFoundError) for each in found)
