"""Originals kept on request: byte for byte, beside the picture, once, and through repairs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import webdataset

from caption_assets.config import Media
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.media import jpeg
from caption_assets.media.normalise import normalisation_id
from caption_assets.media.shard import read_original, read_picture
from caption_assets.media.verify import verify_shard
from caption_assets_tests.media.pictures import encode, noise, valid_files
from caption_assets_tests.media.world import SHARD, World

KEEP = Media(max_pixels=4096, keep_originals=True)


@pytest.fixture
def world(lake: Lake, folder: Path) -> World:
    World.fill(folder)
    for name, data in valid_files().items():
        (folder / f"kind_{name}.jpg").write_bytes(data)
    stripped = jpeg.strip(encode(noise(48, 48, 11), "JPEG"))
    assert stripped is not None
    (folder / "a_plain.jpg").write_bytes(stripped)
    return World(lake, folder, KEEP)


def segment(world: World) -> Path:
    (name,) = world.segments()
    return Path(world.lake.path(f"media/dataset=d/{name}"))


def test_originals_are_there_byte_for_byte(world: World) -> None:
    world.build()
    assert len(world.rows()) > 20
    for row in world.rows():
        original = Path(row["uri"]).read_bytes()
        assert read_original(world.lake, row) == original
        assert row["original_length"] == len(original) == row["original_bytes"]
        assert hashlib.sha256(original).hexdigest() == row["media_id"]
        with segment(world).open("rb") as file:
            file.seek(row["original_offset"])
            assert file.read(row["original_length"]) == original


def test_webdataset_and_tar_read_them_by_their_true_format(world: World, tmp_path: Path) -> None:
    world.build()
    rows = {row["media_id"]: row for row in world.rows()}
    extensions = {"JPEG": "jpg", "MPO": "jpg"}
    samples = list(webdataset.WebDataset(str(segment(world)), shardshuffle=False))
    assert {each["__key__"] for each in samples} == rows.keys()
    for each in samples:
        row = rows[each["__key__"]]
        assert each[row["member"].split(".")[-1]] == read_picture(world.lake, row)
        name = "original." + extensions.get(row["format"], row["format"].lower())
        twice = row["original_offset"] != row["offset"]
        assert each.get(name) == (Path(row["uri"]).read_bytes() if twice else None)
        assert json.loads(each["json"])["uri"] == row["uri"] or row["uri"].endswith("6_copy_of_2.jpg")
    listed = subprocess.run(["tar", "-tf", segment(world)], capture_output=True, text=True, check=True)
    assert {"original.webp", "original.tiff", "original.png"} < {line[65:] for line in listed.stdout.splitlines()}


def test_what_is_stored_as_it_came_is_stored_once(world: World) -> None:
    world.build()
    same = [row for row in world.rows() if row["original_offset"] == row["offset"]]
    assert "a_plain.jpg" in {Path(row["uri"]).name for row in same}
    for row in same:
        assert row["original_length"] == row["length"]
        assert read_original(world.lake, row) == read_picture(world.lake, row)
    report = world.build("again")
    distinct = {row["media_id"]: row for row in world.rows()}.values()
    twice = sum(row["original_length"] for row in distinct if row["original_offset"] != row["offset"])
    assert report.stored_bytes == sum(row["length"] for row in distinct) + twice


def test_a_repair_copies_originals(world: World) -> None:
    world.source.away = {"3.jpg": "timeout"}
    world.build("first")
    world.source.away = {}
    world.build("second")
    assert world.source.fetched == ["3.jpg"]
    for row in world.rows():
        assert read_original(world.lake, row) == Path(row["uri"]).read_bytes()
    repaired = world.checksum()
    world.build("third", force=True)
    assert world.checksum() == repaired


def test_a_damaged_original_is_not_carried_into_a_repair(world: World) -> None:
    world.source.away = {"5.jpg": "timeout"}
    world.build()
    (row,) = (row for row in world.rows() if row["uri"].endswith("/7.png"))
    assert row["original_offset"] != row["offset"]
    with segment(world).open("r+b") as file:
        file.seek(row["original_offset"] + 30)
        file.write(b"damaged")
    world.source.away = {}
    world.build()
    assert sorted(world.source.fetched) == ["5.jpg", "7.png"]
    (row,) = (row for row in world.rows() if row["uri"].endswith("/7.png"))
    assert read_original(world.lake, row) == (world.folder / "7.png").read_bytes()


def test_a_segment_cut_off_in_its_last_original_is_made_again(world: World) -> None:
    world.build()
    before = world.checksum()
    last = max(world.rows(), key=lambda row: int(row["offset"]))
    assert last["original_offset"] != last["offset"]
    file = segment(world)
    file.write_bytes(file.read_bytes()[: last["original_offset"] + 1])
    world.build()
    assert world.checksum() == before


def test_only_who_asks_for_them_has_them(world: World) -> None:
    plain = Media(max_pixels=4096)
    world.build(media=plain)
    assert all((row["original_offset"], row["original_length"]) == (None, None) for row in world.rows())
    assert all(read_original(world.lake, row) is None for row in world.rows())
    assert normalisation_id(plain) != normalisation_id(KEEP)
    assert world.build("second").new == len(world.rows()), "asking for them makes the shard stale"
    assert "original" not in normalisation_id(plain), "nobody else's lake is stale by it"


def test_an_index_from_before_there_were_originals_is_read(world: World) -> None:
    plain = Media(max_pixels=4096)
    world.source.away = {"3.jpg": "timeout"}
    world.build(media=plain)
    path = "media/dataset=d/d-000000.parquet"
    world.lake.write(path, table_bytes(world.lake.read_table(path).drop(["original_offset", "original_length"])))
    assert read_original(world.lake, world.rows()[0]) is None
    assert verify_shard(world.lake, SHARD).damaged == {}
    world.source.away = {}
    world.build("repair", media=plain)
    assert world.source.fetched == ["3.jpg"]
