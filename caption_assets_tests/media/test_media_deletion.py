"""Deleted pictures: gone from segment and index, in every shard, and they never come back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import Media
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import read_tombstones
from caption_assets.media import copying, deletion, shard
from caption_assets.media.deletion import delete, plan_deletion, purge_media
from caption_assets.media.shard import build_media, read_failures, read_index, read_original, read_picture
from caption_assets.media.verify import verify_shard
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset
from caption_assets_tests.media.pictures import encode, noise
from caption_assets_tests.media.world import SHARD, World


@pytest.fixture
def world(lake: Lake, folder: Path, media: Media) -> World:
    world = World(lake, folder, media)
    world.build()
    return world


def id_of(world: World, name: str) -> str:
    return hashlib.sha256((world.folder / name).read_bytes()).hexdigest()


def forget(lake: Lake, media_ids: Collection[str] = (), uris: Collection[tuple[str, str]] = ()) -> None:
    delete(lake, plan_deletion(lake, media_ids, uris), "asked for", "tester", "deletion")


def kinds(world: World) -> dict[str, str]:
    return {Path(row["uri"]).name: row["kind"] for row in world.failures()}


def stored_bytes(lake: Lake) -> bytes:
    """All bytes of the lake's segments."""
    return b"".join(lake.read(path) for path in lake.find("media") if path.endswith(".tar"))


def test_a_picture_goes_with_all_its_doubles(world: World) -> None:
    before = {row["uri"]: row for row in world.rows()}
    data = read_picture(world.lake, before[str(world.folder / "2.jpg")])
    forget(world.lake, [id_of(world, "2.jpg")])
    world.check()
    assert kinds(world) == {
        "2.jpg": "deleted",
        "6_copy_of_2.jpg": "deleted",
        "8_broken.jpg": "truncated",
        "9_page.jpg": "not_an_image",
    }
    assert world.segments() == ["d-000000.1.tar"]
    assert data not in stored_bytes(world.lake)
    moved = ("segment", "offset")
    for row in world.rows():
        assert {k: v for k, v in row.items() if k not in moved} == {
            k: v for k, v in before[row["uri"]].items() if k not in moved
        }
    assert verify_shard(world.lake, SHARD).damaged == {}
    failure = next(row for row in world.failures() if row["kind"] == "deleted")
    assert (failure["media_id"], failure["retryable"]) == (id_of(world, "2.jpg"), False)


def test_the_tombstone_says_what_where_why_and_who(world: World) -> None:
    forget(world.lake, [id_of(world, "2.jpg"), "f" * 64])
    (name,) = world.lake.list("tombstones")
    rows = world.lake.read_table(f"tombstones/{name}").to_pylist()
    uris = [str(world.folder / "2.jpg"), str(world.folder / "6_copy_of_2.jpg")]
    assert [(row["media_id"], row["dataset"], row["uri"]) for row in rows] == [
        *((id_of(world, "2.jpg"), "d", uri) for uri in uris),
        ("f" * 64, None, None),
    ]
    assert {(row["reason"], row["contributor"]) for row in rows} == {("asked for", "tester")}


def test_the_segment_is_that_of_a_shard_that_never_had_it(world: World, tmp_path: Path) -> None:
    forget(world.lake, [id_of(world, "0.jpg"), id_of(world, "7.png")])
    other = World(Lake(str(tmp_path / "other")), world.folder, world.media)
    forget(other.lake, [id_of(world, "0.jpg"), id_of(world, "7.png")])
    other.build()
    assert kinds(other) == kinds(world)
    assert other.checksum() == world.checksum()


@pytest.mark.parametrize(
    "options", [{}, {"force": True}, {"media": Media(max_pixels=2048)}], ids=["", "force", "budget"]
)
def test_no_run_brings_it_back_or_even_fetches_it(world: World, options: dict[str, Any]) -> None:
    forget(world.lake, [id_of(world, "2.jpg")])
    world.build("next", **options)
    assert kinds(world)["2.jpg"] == kinds(world)["6_copy_of_2.jpg"] == "deleted"
    assert not {"2.jpg", "6_copy_of_2.jpg"} & set(world.source.fetched)
    assert len(world.rows()) == 6
    before = world.files()
    world.build("and again", **{name: value for name, value in options.items() if name != "force"})
    assert world.files() == before


def test_the_same_bytes_elsewhere_are_a_failure_never_media(world: World, tmp_path: Path) -> None:
    forget(world.lake, [id_of(world, "2.jpg")])
    (world.folder / "z_late_copy.jpg").write_bytes((world.folder / "2.jpg").read_bytes())
    plan_dataset(world.lake, "d", world.source, 100)
    report = build_media(world.lake, Shard("d", 1), world.source, world.media, "late")
    assert (report.rows, report.failure_kinds) == (0, {"deleted": 1})
    shutil.copytree(world.folder, tmp_path / "another dataset")
    source = FolderSource(tmp_path / "another dataset")
    plan_dataset(world.lake, "e", source, 100)
    report = build_media(world.lake, Shard("e", 0), source, world.media, "other")
    assert report.failure_kinds == {"deleted": 3, "truncated": 1, "not_an_image": 1}
    assert (report.planned, report.rows) == (11, 6)


def test_every_shard_that_has_it_loses_it(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "e")
    for dataset in ("e", "f"):
        plan_dataset(world.lake, dataset, FolderSource(tmp_path / "e"), 100)
        build_media(world.lake, Shard(dataset, 0), FolderSource(tmp_path / "e"), world.media, "r")
    forget(world.lake, [id_of(world, "0.jpg")])
    for dataset in ("d", "e", "f"):
        index = read_index(world.lake, Shard(dataset, 0))
        assert len(index) == 7
        assert id_of(world, "0.jpg") not in {row["media_id"] for row in index}
        assert len(world.lake.list(f"media/dataset={dataset}")) == 2


def test_by_uri_the_bytes_go_everywhere_and_the_uri_is_never_fetched_again(world: World) -> None:
    uri = str(world.folder / "2.jpg")
    planned = plan_deletion(world.lake, [], [("d", uri)])
    assert [Path(row["uri"]).name for row in planned.rows] == ["2.jpg", "6_copy_of_2.jpg"], "what is shown first is all"
    forget(world.lake, uris=[("d", uri)])
    assert kinds(world)["6_copy_of_2.jpg"] == "deleted", "its bytes are the same"
    (world.folder / "2.jpg").write_bytes(encode(noise(60, 50, 99), "JPEG"))
    plan_dataset(world.lake, "d", world.source, 100)
    world.source.fetched.clear()
    report = build_media(world.lake, Shard("d", 1), world.source, world.media, "new bytes", force=True)
    assert (report.planned, report.failure_kinds) == (1, {"deleted": 1})
    assert world.source.fetched == []
    world.build()


def test_a_uri_that_failed_so_far_is_not_tried_again(world: World) -> None:
    (world.folder / "a.jpg").write_bytes(encode(noise(60, 50, 98), "JPEG"))
    plan_dataset(world.lake, "d", world.source, 100)
    world.source.away = {"a.jpg": "timeout"}
    one = Shard("d", 1)
    build_media(world.lake, one, world.source, world.media, "fails")
    forget(world.lake, uris=[("d", str(world.folder / "a.jpg"))])
    world.source.away = {}
    world.source.fetched.clear()
    for _ in range(2):
        assert build_media(world.lake, one, world.source, world.media, "r").failure_kinds == {"deleted": 1}
        assert [row["kind"] for row in read_failures(world.lake, "media", one)] == ["deleted"]
    assert world.source.fetched == []


def test_all_pictures_of_a_shard(world: World) -> None:
    forget(world.lake, {row["media_id"] for row in world.rows()})
    assert world.segments() == []
    assert world.rows() == []
    assert list(kinds(world).values()).count("deleted") == 8
    report = world.build(force=True)
    assert (report.planned, report.rows, report.failed) == (10, 0, 10)


def test_deleting_again_does_nothing(world: World) -> None:
    forget(world.lake, [id_of(world, "0.jpg")])
    before = world.files()
    forget(world.lake, [id_of(world, "0.jpg")])
    assert world.files() == before


def test_deletions_add_up(world: World) -> None:
    forget(world.lake, [id_of(world, "0.jpg")])
    forget(world.lake, [id_of(world, "1.jpg")])
    world.check()
    assert world.segments() == ["d-000000.2.tar"]
    assert sorted(name for name, kind in kinds(world).items() if kind == "deleted") == ["0.jpg", "1.jpg"]


def test_the_source_is_not_needed(world: World) -> None:
    doomed = id_of(world, "0.jpg")
    shutil.rmtree(world.folder)
    forget(world.lake, [doomed])
    world.check()
    assert len(world.rows()) == 7


def test_what_is_damaged_is_not_copied_but_made_again_by_the_next_run(world: World) -> None:
    row = world.rows()[1]
    with Path(world.lake.path("media/dataset=d/d-000000.tar")).open("r+b") as file:
        file.seek(row["offset"] + 20)
        file.write(b"damaged")
    forget(world.lake, [id_of(world, "0.jpg")])
    world.check()
    assert kinds(world)["1.jpg"] == "unreadable"
    world.build()
    assert world.source.fetched == ["1.jpg"]
    assert "1.jpg" not in kinds(world)


def test_a_lost_segment_does_not_hinder_a_deletion(world: World) -> None:
    Path(world.lake.path("media/dataset=d/d-000000.tar")).unlink()
    forget(world.lake, [id_of(world, "0.jpg")])
    world.check()
    assert world.rows() == []
    assert world.build().rows == 7
    assert kinds(world)["0.jpg"] == "deleted"


def test_failures_keep_their_attempts(world: World) -> None:
    world.source.away = {"5.jpg": "timeout"}
    world.build(force=True)
    world.build()
    before = {row["uri"]: row for row in world.failures()}
    forget(world.lake, [id_of(world, "0.jpg")])
    after = {row["uri"]: row for row in world.failures()}
    assert {uri: after[uri] for uri in before} == before


def test_originals_go_and_those_of_others_stay(lake: Lake, folder: Path) -> None:
    world = World(lake, folder, Media(max_pixels=4096, keep_originals=True))
    world.build()
    png = (folder / "7.png").read_bytes()
    assert png in stored_bytes(lake)
    forget(lake, [id_of(world, "7.png"), id_of(world, "0.jpg")])
    world.check()
    assert png not in stored_bytes(lake)
    for row in world.rows():
        assert read_original(lake, row) == Path(row["uri"]).read_bytes()


def test_who_read_the_index_before_still_finds_the_other_pictures(world: World) -> None:
    before = {row["media_id"]: (row, read_picture(world.lake, row)) for row in world.rows()}
    doomed = id_of(world, "0.jpg")
    forget(world.lake, [doomed])
    with pytest.raises(FileNotFoundError):
        read_picture(world.lake, before.pop(doomed)[0])
    assert [read_picture(world.lake, row) for row, _ in before.values()] == [data for _, data in before.values()]


def test_from_the_tombstone_on_the_index_does_not_show_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "_complete", lambda *arguments: 0)
    forget(world.lake, [id_of(world, "2.jpg")])
    assert len(read_index(world.lake, SHARD)) == 6
    assert world.segments() == ["d-000000.tar"], "and yet nothing was removed so far"


def test_a_tombstone_that_is_taken_away_lets_it_in_again(world: World) -> None:
    forget(world.lake, [id_of(world, "0.jpg")])
    for name in world.lake.list("tombstones"):
        world.lake.remove(f"tombstones/{name}")
    report = world.build()
    assert (report.rows, report.new) == (8, 1)
    assert world.source.fetched == ["0.jpg"]


def test_a_deletion_while_a_media_run_is_under_way(world: World) -> None:
    """It comes when the run has read the index and makes its last picture."""
    real, doomed = world.source.fetch, [id_of(world, "0.jpg"), id_of(world, "7.png")]

    def fetch(uri: str, etag: str) -> bytes:
        if uri.endswith("7.png"):
            forget(Lake(world.lake.root), doomed)
        return real(uri, etag)

    world.source.fetch = fetch  # type: ignore[method-assign]
    report = build_media(world.lake, SHARD, world.source, world.media, "late", force=True)
    world.source.fetch = real  # type: ignore[method-assign]
    world.check()
    assert kinds(world)["0.jpg"] == kinds(world)["7.png"] == "deleted"
    assert (report.rows, report.failed) == (6, 4)
    assert len(world.rows()) == 6


def test_a_deletion_that_comes_just_after_a_run_has_looked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shard.complete_deletions
    pending = [id_of(world, "0.jpg")]

    def late(*arguments: Any) -> None:
        real(*arguments)
        if pending:
            monkeypatch.setattr(deletion, "_complete", lambda *arguments: 0)
            forget(Lake(world.lake.root), [pending.pop()])

    monkeypatch.setattr(shard, "complete_deletions", late)
    report = build_media(world.lake, SHARD, world.source, world.media, "r")
    world.check()
    assert (report.rows, report.failed, kinds(world)["0.jpg"]) == (7, 3, "deleted")


def test_a_deletion_starts_over_when_a_run_was_faster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair of the same shard ends while the deletion copies the old segment."""
    real, pending = copying.read_pictures, [True]

    def slow(lake: Lake, rows: list[dict[str, Any]]) -> Any:
        yield from real(lake, rows)
        if pending:
            pending.clear()
            other = World(Lake(lake.root), world.folder, Media(max_pixels=2048))
            build_media(other.lake, SHARD, other.source, other.media, "other")

    monkeypatch.setattr(copying, "read_pictures", slow)
    monkeypatch.setattr(shard, "complete_deletions", lambda *arguments: None)
    forget(world.lake, [id_of(world, "0.jpg")])
    world.check()
    assert {row["run_id"] for row in world.rows()} == {"other"}, "what the run made is not undone"
    assert kinds(world)["0.jpg"] == "deleted"


def test_a_lake_without_deletions_pays_one_look_into_a_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = world.lake.list
    monkeypatch.setattr(world.lake, "list", lambda folder: listed.append(folder) or real(folder))
    monkeypatch.setattr(world.lake, "read", None)
    assert purge_media(world.lake, SHARD, "r") == frozenset()
    assert listed == ["tombstones"]


def test_tombstones_are_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(world.lake, [id_of(world, "0.jpg")])
    first = read_tombstones(world.lake)
    with monkeypatch.context() as patch:
        patch.setattr(world.lake, "read_columns", None)
        assert read_tombstones(world.lake) is first
    forget(Lake(world.lake.root), [id_of(world, "1.jpg")])
    assert read_tombstones(world.lake).media_ids == {id_of(world, "0.jpg"), id_of(world, "1.jpg")}
