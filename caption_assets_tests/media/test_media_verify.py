"""Verification on request: what is damaged is found, named and made again, and nothing else is touched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from caption_assets.config import Media
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media import verify
from caption_assets.media.shard import build_media, read_picture
from caption_assets.media.verify import verify_shard
from caption_assets_tests.media.world import SHARD, World


@pytest.fixture(params=[False, True], ids=["pictures", "with originals"])
def world(request: pytest.FixtureRequest, lake: Lake, folder: Path) -> World:
    world = World(lake, folder, Media(max_pixels=4096, keep_originals=request.param))
    world.build()
    return world


def segment(world: World) -> Path:
    return Path(world.lake.path(f"media/dataset=d/{world.rows()[0]['segment']}"))


def spoil(world: World, name: str, column: str = "offset") -> str:
    """Change a byte in the middle of a stored picture; returns its media_id."""
    (row,) = (row for row in world.rows() if row["uri"].endswith(name))
    with segment(world).open("r+b") as file:
        file.seek(row[column] + row["length"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return str(row["media_id"])


def repair(world: World) -> int:
    world.source.fetched.clear()
    report = build_media(world.lake, SHARD, world.source, world.media, "repair", verify=True)
    world.check()
    return report.damaged


def test_a_sound_shard_is_read_and_left_as_it_is(world: World) -> None:
    before = world.files()
    found = verify_shard(world.lake, SHARD)
    assert (found.pictures, found.damaged, found.rows) == (7, {}, [])
    assert found.stored_bytes == world.build("no-op").stored_bytes
    assert repair(world) == 0
    assert world.files() == before
    assert world.source.fetched == []


def test_damage_is_found_and_repaired_and_only_that(world: World) -> None:
    checksum = world.checksum()
    doomed = {spoil(world, "0.jpg"), spoil(world, "6_copy_of_2.jpg"), spoil(world, "7.png")}
    found = verify_shard(world.lake, SHARD)
    assert found.damaged.keys() == doomed
    assert [Path(row["uri"]).name for row in found.rows] == ["0.jpg", "2.jpg", "6_copy_of_2.jpg", "7.png"]
    unasked = build_media(world.lake, SHARD, world.source, world.media, "without verification")
    assert (unasked.new, unasked.damaged) == (0, 0), "it costs a reading, so it is on request"
    world.source.fetched.clear()
    assert repair(world) == 3
    assert sorted(world.source.fetched) == ["0.jpg", "2.jpg", "6_copy_of_2.jpg", "7.png"]
    assert world.checksum() == checksum
    assert verify_shard(world.lake, SHARD).damaged == {}


def test_a_damaged_picture_whose_source_is_gone_is_a_failure_not_a_caption_of_noise(world: World) -> None:
    spoil(world, "0.jpg")
    (world.folder / "0.jpg").unlink()
    assert repair(world) == 1
    assert [row["kind"] for row in world.failures() if row["uri"].endswith("0.jpg")] == ["gone"]


def test_a_damaged_original_is_found(lake: Lake, folder: Path) -> None:
    world = World(lake, folder, Media(max_pixels=4096, keep_originals=True))
    world.build()
    checksum = world.checksum()
    damaged = spoil(world, "7.png", "original_offset")
    assert verify_shard(world.lake, SHARD).damaged == {damaged: "the original's bytes are not those that were stored"}
    assert repair(world) == 1
    assert world.checksum() == checksum


@pytest.mark.parametrize("keep", [0, 5000], ids=["gone", "cut off"])
def test_a_segment_that_is_gone_or_cut_off_is_damage(world: World, keep: int) -> None:
    data = segment(world).read_bytes()
    segment(world).unlink()
    if keep:
        segment(world).write_bytes(data[:keep])
    found = verify_shard(world.lake, SHARD)
    assert found.pictures == 7
    assert len(found.damaged) == 7 if not keep else 0 < len(found.damaged) < 7
    world.build()
    assert verify_shard(world.lake, SHARD).damaged == {}


def test_a_shard_without_media_has_nothing_to_verify(world: World) -> None:
    assert verify_shard(world.lake, Shard("d", 5)).pictures == 0


def test_the_segment_is_read_once_from_front_to_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = world.lake.open
    monkeypatch.setattr(world.lake, "open", lambda path: opened.append(path) or real(path))
    monkeypatch.setattr(world.lake, "read_range", None)
    assert verify_shard(world.lake, SHARD).damaged == {}
    assert len(opened) == 1


def test_a_repair_meanwhile_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segment is replaced between our look at the index and our look at the segment."""
    (world.folder / "new.jpg").write_bytes((world.folder / "0.jpg").read_bytes())
    real, pending = verify.read_pictures, [True]

    def late(lake: Lake, rows: list[dict[str, object]]):  # type: ignore[no-untyped-def]
        if pending:
            pending.clear()
            thread = threading.Thread(
                target=build_media, args=(Lake(lake.root), SHARD, world.source, Media(max_pixels=2048), "other")
            )
            thread.start()
            thread.join()
        return real(lake, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "read_pictures", late)
    before = world.rows()
    found = verify_shard(world.lake, SHARD)
    assert (found.pictures, found.damaged) == (7, {})
    assert [read_picture(world.lake, row) for row in before] == [read_picture(world.lake, row) for row in world.rows()]
