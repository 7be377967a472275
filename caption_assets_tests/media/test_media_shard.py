"""A shard's media: nothing lost, nothing twice, repairs, and a death at any moment."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import Media
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media import build
from caption_assets.media.shard import build_media, read_failures, read_index, read_picture
from caption_assets.sources.base import Item
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset
from caption_assets_tests.media.pictures import encode, noise, png_header
from caption_assets_tests.media.world import SHARD, Flaky, World


@pytest.fixture
def world(lake: Lake, folder: Path, media: Media) -> World:
    return World(lake, folder, media)


def test_planned_is_rows_and_failures(world: World) -> None:
    report = world.build()
    assert (report.planned, report.rows, report.new, report.failed, report.failed_now) == (10, 8, 8, 2, 2)
    assert report.failure_kinds == {"truncated": 1, "not_an_image": 1}
    assert report.stored_bytes == sum({row["media_id"]: row["length"] for row in world.rows()}.values())
    row = world.rows()[7]
    original = (world.folder / "7.png").read_bytes()
    assert row["media_id"] == hashlib.sha256(original).hexdigest()
    assert (row["original_width"], row["original_height"], row["original_bytes"]) == (200, 100, len(original))
    assert row["width"] * row["height"] <= 4096
    assert (row["format"], row["dataset"], row["shard"], row["segment"]) == ("PNG", "d", "d-000000", "d-000000.tar")


def test_doubles_are_stored_once_and_have_a_row_each(world: World) -> None:
    world.build()
    first, second = (row for row in world.rows() if Path(row["uri"]).name in {"2.jpg", "6_copy_of_2.jpg"})
    assert first["uri"] != second["uri"]
    same = ("media_id", "member", "offset", "length", "bytes_sha256", "width", "height", "phash")
    assert [first[name] for name in same] == [second[name] for name in same]


def test_a_finished_shard_is_left_as_it_is(world: World) -> None:
    world.build()
    before = world.files()
    report = world.build("another run")
    assert (report.planned, report.rows, report.new, report.failed, report.failed_now) == (10, 8, 0, 2, 0)
    assert world.files() == before
    assert world.source.fetched == []


def test_what_comes_back_is_repaired_into_the_next_generation(world: World) -> None:
    world.source.away = {"3.jpg": "unreadable", "5.jpg": "gone"}
    assert world.build("first").failed == 4
    made_first = {row["uri"]: (row["run_id"], row["created_at"]) for row in world.rows()}
    world.source.away = {"5.jpg": "timeout"}
    report = world.build("second")
    assert (report.rows, report.new, report.failed) == (7, 1, 3)
    assert sorted(world.source.fetched) == ["3.jpg", "5.jpg"]
    assert world.segments() == ["d-000000.1.tar"]
    for row in world.rows():
        assert (row["run_id"] == "second") == row["uri"].endswith("3.jpg")
        if row["uri"] in made_first:
            assert (row["run_id"], row["created_at"]) == made_first[row["uri"]]
    world.source.away = {}
    assert world.build("third").new == 1
    assert world.segments() == ["d-000000.2.tar"]
    assert world.source.fetched == ["5.jpg"]


def test_a_repaired_shard_holds_the_same_as_an_undisturbed_one(world: World, tmp_path: Path) -> None:
    world.source.away = {"0.jpg": "timeout", "4.jpg": "unreadable"}
    world.build()
    world.source.away = {}
    world.build()
    repaired = world.checksum()
    world.build(force=True)
    assert world.checksum() == repaired


def test_failures_that_stay_do_not_touch_the_segment(world: World) -> None:
    world.source.away = {"3.jpg": "timeout"}
    world.build()
    before = world.lake.read("media/dataset=d/d-000000.parquet"), world.segments()
    report = world.build("again")
    assert (report.new, report.failed) == (0, 3)
    assert (world.lake.read("media/dataset=d/d-000000.parquet"), world.segments()) == before
    assert {row["uri"][-5:]: row["attempts"] for row in world.failures()}["3.jpg"] == 2
    assert world.source.fetched == ["3.jpg"]


def test_only_what_may_pass_is_tried_again(world: World) -> None:
    world.source.away = {"0.jpg": "gone", "1.jpg": "forbidden", "2.jpg": "timeout", "3.jpg": "unreadable"}
    world.build()
    retryable = {Path(row["uri"]).name for row in world.failures() if row["retryable"]}
    assert retryable == {"0.jpg", "1.jpg", "2.jpg", "3.jpg"}
    world.build()
    assert set(world.source.fetched) == retryable


def test_bytes_that_cannot_be_decoded_are_not_tried_again(world: World) -> None:
    (world.folder / "a.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(20))
    plan_dataset(world.lake, "d", world.source, 100)
    shard = Shard("d", 1)
    report = build_media(world.lake, shard, world.source, world.media, "first")
    assert report.failure_kinds == {"unreadable": 1}
    assert not read_failures(world.lake, "media", shard)[0]["retryable"]
    world.source.fetched.clear()
    build_media(world.lake, shard, world.source, world.media, "second")
    assert world.source.fetched == []


def test_a_deleted_file_is_a_failure_and_its_picture_stays_if_it_was_there(world: World) -> None:
    (world.folder / "0.jpg").unlink()
    assert world.build().failure_kinds["gone"] == 1
    (world.folder / "1.jpg").unlink()
    assert world.build().failure_kinds["gone"] == 1
    assert len(world.rows()) == 7


def test_another_budget_makes_all_anew(world: World) -> None:
    world.build()
    report = world.build("second", media=Media(max_pixels=1024))
    assert (report.rows, report.new) == (8, 8)
    assert world.segments() == ["d-000000.1.tar"]
    assert all(row["width"] * row["height"] <= 1024 and row["run_id"] == "second" for row in world.rows())
    assert world.build("third", media=Media(max_pixels=1024)).new == 0


def test_another_limit_tries_what_was_too_large_again(world: World) -> None:
    strict = Media(max_pixels=4096, max_megapixels=0.01, max_file_mb=0.02)
    report = world.build(media=strict)
    assert report.failure_kinds["too_large"] == 1
    assert world.build(media=strict).failure_kinds["too_large"] == 1
    assert world.source.fetched == []
    assert world.build(media=Media(max_pixels=4096)).failure_kinds == {"truncated": 1, "not_an_image": 1}


def test_a_file_too_big_is_not_read(world: World) -> None:
    report = world.build(media=Media(max_pixels=4096, max_file_mb=0.0001))
    assert report.failure_kinds["too_large"] == 9
    assert world.source.fetched == ["9_page.jpg"]


def test_force_makes_all_anew_and_the_same(world: World) -> None:
    world.build()
    before = world.checksum()
    assert world.build("second", force=True).new == 8
    assert world.checksum() == before
    assert {row["run_id"] for row in world.rows()} == {"second"}


@pytest.mark.parametrize("damage", ["deleted", "cut", "empty"])
def test_a_segment_that_is_lost_is_made_again(world: World, damage: str) -> None:
    world.build()
    before = world.checksum()
    segment = Path(world.lake.path("media/dataset=d/d-000000.tar"))
    if damage == "deleted":
        segment.unlink()
    else:
        segment.write_bytes(segment.read_bytes()[: 3000 if damage == "cut" else 0])
    report = world.build()
    assert report.rows == 8
    assert world.checksum() == before
    assert world.build().new == 0


def test_a_damaged_picture_is_not_carried_into_a_repair(world: World) -> None:
    world.source.away = {"5.jpg": "timeout"}
    world.build()
    row = world.rows()[0]
    with Path(world.lake.path("media/dataset=d/d-000000.tar")).open("r+b") as file:
        file.seek(row["offset"] + row["length"] // 2)
        file.write(b"damaged")
    world.source.away = {}
    world.build()  # checks every digest
    assert sorted(world.source.fetched) == ["0.jpg", "5.jpg"]


def test_a_shard_without_a_picture_has_an_index_and_no_segment(lake: Lake, folder: Path, media: Media) -> None:
    (folder / "a.jpg").write_bytes(b"nothing")
    (folder / "b.png").write_bytes(png_header(30_000, 30_000))
    source = FolderSource(folder)
    plan_dataset(lake, "d", source, 10)
    for _ in range(2):
        report = build_media(lake, SHARD, source, media, "r")
        assert (report.planned, report.rows, report.failed) == (2, 0, 2)
        assert lake.list("media/dataset=d") == ["d-000000.parquet"]
        assert read_index(lake, SHARD) == []


def test_pictures_that_all_go_stale_and_fail_leave_no_segment(world: World) -> None:
    world.build()
    for file in world.folder.iterdir():
        file.unlink()
    report = world.build(media=Media(max_pixels=2048))
    assert (report.rows, report.failed) == (0, 10)
    assert world.segments() == []


def test_a_shard_never_planned_is_an_error(world: World) -> None:
    with pytest.raises(FileNotFoundError):
        build_media(world.lake, Shard("d", 5), world.source, world.media, "r")
    assert read_index(world.lake, Shard("d", 5)) == []
    assert read_failures(world.lake, "media", Shard("d", 5)) == []


def die_at(monkeypatch: pytest.MonkeyPatch, lake: Lake, method: str, pattern: str) -> None:
    """Let the next call of a method for such a path be the process's last."""
    real: Callable[..., Any] = getattr(lake, method)

    def dying(*args: Any, **options: Any) -> Any:
        if any(isinstance(arg, str) and fnmatch(arg, pattern) for arg in args):
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(lake, method, dying)


@pytest.mark.parametrize(
    ("method", "pattern"),
    [("put", "media/*.tar"), ("write", "failures/*"), ("write", "media/*.parquet"), ("remove", "media/*.tar")],
    ids=["before the segment", "before the failures", "before the index", "before the clean-up"],
)
@pytest.mark.parametrize("repair", [False, True], ids=["first", "repair"])
def test_after_a_death_the_next_run_gives_what_an_undisturbed_one_does(
    world: World, method: str, pattern: str, repair: bool
) -> None:
    undisturbed = World(Lake(world.lake.root + "-2"), world.folder, world.media)
    for each in (world, undisturbed):
        if repair:
            each.source.away = {"3.jpg": "timeout"}
            each.build()
            each.source.away = {}
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, world.lake, method, pattern)
        died = repair or method != "remove"  # a first run has nothing to clean up
        with pytest.raises(KeyboardInterrupt) if died else nullcontext():
            build_media(world.lake, SHARD, world.source, world.media, "dies")
    world.build()
    undisturbed.build()
    assert world.checksum() == undisturbed.checksum()
    assert [row["uri"] for row in world.failures()] == [row["uri"] for row in undisturbed.failures()]
    strip = ("created_at", "run_id")
    expected = [{k: v for k, v in row.items() if k not in strip} for row in undisturbed.rows()]
    assert [{k: v for k, v in row.items() if k not in strip} for row in world.rows()] == expected


def test_two_writers_at_once_never_share_a_segment_that_differs(world: World) -> None:
    """The other one runs to its end while this one makes its pictures, and gets one picture less."""
    other = World(Lake(world.lake.root), world.folder, world.media)
    other.source.away = {"5.jpg": "timeout"}
    real = world.source.fetch
    pending = [other]

    def fetch(uri: str, etag: str) -> bytes:
        if pending:
            build_media(other.lake, SHARD, pending.pop().source, other.media, "other")
        return real(uri, etag)

    world.source.fetch = fetch  # type: ignore[method-assign]
    report = build_media(world.lake, SHARD, world.source, world.media, "mine")
    world.check()
    assert report.rows == 8
    assert {row["run_id"] for row in world.rows()} == {"mine"}
    assert world.segments() == ["d-000000.1.tar"]


def test_a_segment_that_another_writer_places_first_is_not_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes between our look at the folder and our claim, with one picture less."""
    other = World(Lake(world.lake.root), world.folder, world.media)
    other.source.away = {"5.jpg": "timeout"}
    real, pending = world.lake.put, [other]

    def put(file: Path, relative: str, *, exclusive: bool = False) -> bool:
        if pending:
            build_media(pending.pop().lake, SHARD, other.source, other.media, "other")
        return real(file, relative, exclusive=exclusive)

    monkeypatch.setattr(world.lake, "put", put)
    assert build_media(world.lake, SHARD, world.source, world.media, "mine").rows == 8
    world.check()
    assert world.segments() == ["d-000000.1.tar"]


def test_an_unforeseen_error_in_one_picture_is_its_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = build.normalise

    def fragile(picture: Any, media: Media) -> Any:
        if picture.format == "PNG":
            raise ZeroDivisionError("secret")
        return real(picture, media)

    monkeypatch.setattr(build, "normalise", fragile)
    world.build()
    (failure,) = (row for row in world.failures() if row["uri"].endswith("7.png"))
    assert (failure["kind"], failure["retryable"]) == ("unreadable", True)
    assert "secret" not in failure["message"]
    monkeypatch.undo()
    assert world.build().new == 1


def test_progress_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.ProgressMeter.__init__, "__kwdefaults__", {"kept": 0, "every": 0.0})
    told: list[str] = []
    build_media(world.lake, SHARD, world.source, world.media, "r", tell=told.append)
    counted = [line for line in told if re.match(r"d-000000: \d+/10 pictures, \d+\.\d/s, \d+ s to go", line)]
    assert counted[-1].startswith("d-000000: 10/10 pictures")


def test_what_the_source_knew_is_in_the_index(lake: Lake, folder: Path, media: Media) -> None:
    (folder / "a.jpg").write_bytes(encode(noise(9, 9), "JPEG"))
    (item,) = FolderSource(folder).scan()

    class Annotated(FolderSource):
        def scan(self) -> Iterator[Item]:
            yield Item(item.uri, item.etag, item.size, item.modified, {"caption": "ä"})

    plan_dataset(lake, "d", Annotated(folder), 10)
    build_media(lake, SHARD, Annotated(folder), media, "r")
    assert read_index(lake, SHARD)[0]["source"] == '{"caption": "ä"}'


def test_it_works_on_an_object_store(folder: Path, media: Media) -> None:
    lake = Lake("memory://shard-test/lake")
    lake.remove_folder("")
    (folder / "a.jpg").write_bytes(encode(noise(9, 9), "JPEG"))
    source = Flaky(folder)
    source.away = {"b.jpg": "timeout"}
    (folder / "b.jpg").write_bytes(encode(noise(9, 9, 1), "JPEG"))
    plan_dataset(lake, "d", source, 10)
    assert build_media(lake, SHARD, source, media, "r").rows == 1
    source.away = {}
    assert build_media(lake, SHARD, source, media, "r").rows == 2
    assert lake.list("media/dataset=d") == ["d-000000.1.tar", "d-000000.parquet"]
    for row in read_index(lake, SHARD):
        assert hashlib.sha256(read_picture(lake, row)).hexdigest() == row["bytes_sha256"]
    assert layout.media_index(SHARD) == "media/dataset=d/d-000000.parquet"
