"""A folder's scan and fetch: what counts as an item, in which order, and what a fetch refuses."""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from caption_assets.sources import folder as folder_module
from caption_assets.sources import folder_files
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.folder import FolderSource

OLD = time.time() - 1000


def touch(path: Path, data: bytes = b"x", mtime: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (mtime, mtime))
    return path


def names(items: list[Item], folder: Path) -> list[str]:
    return [item.uri.removeprefix(f"{folder}/") for item in items]


def scan(folder: Path, **options: float) -> list[Item]:
    return list(FolderSource(folder, **options).scan())  # type: ignore[arg-type]


def test_pictures_only_and_nothing_hidden(folder: Path) -> None:
    wanted = ["a.jpg", "b.JPEG", "c.PnG", "d.webp", "sub/deep/e.tiff", "sub/f.avif"]
    for name in [*wanted, ".hidden.jpg", ".git/g.jpg", "sub/.cache/h.png", "notes.txt", "jpg", "i.jpg.part", "._a.jpg"]:
        touch(folder / name)
    (folder / "folder.jpg").mkdir()
    assert names(scan(folder), folder) == wanted
    assert names(scan(folder, recursive=False), folder) == wanted[:4]


def test_order_is_that_of_names_however_the_files_came(folder: Path) -> None:
    for name in ["b.jpg", "a/z.jpg", "a.jpg", "a-b.jpg", "B.jpg", "ä.jpg", "10.jpg", "9.jpg"]:
        touch(folder / name)
    first = scan(folder)
    assert names(first, folder) == ["10.jpg", "9.jpg", "B.jpg", "a/z.jpg", "a-b.jpg", "a.jpg", "b.jpg", "ä.jpg"]
    assert scan(folder) == first


@pytest.mark.parametrize(
    "name",
    [
        "with\nnewline.jpg",
        "tab\t and space .jpg",
        "x" * 246 + ".jpg",
        "e\u0301.jpg",
        "é.jpg",
        "100%25.jpg",
        "'\"`$;&.jpg",
        "-rf.jpg",
        "图片🙂.jpg",
        "file:%2F.jpg",
        "back\\slash.jpg",
    ],
)
def test_any_name_can_be_scanned_and_fetched(folder: Path, name: str) -> None:
    touch(folder / name, b"content")
    (item,) = scan(folder)
    assert names([item], folder) == [name]
    assert FolderSource(folder).fetch(item.uri, item.etag) == b"content"


def test_composed_and_decomposed_names_are_two_items(folder: Path) -> None:
    touch(folder / "e\u0301.jpg")
    touch(folder / "é.jpg")
    assert len({item.uri for item in scan(folder)}) == 2


@pytest.mark.parametrize("place", [b"\xff\xfe%.jpg", b"sub\xe9/a.jpg"])
def test_names_that_are_not_utf8_are_items_too(folder: Path, place: bytes) -> None:
    path = os.fsencode(folder) + b"/" + place
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"content")
    (item,) = scan(folder)
    assert item.uri.startswith("file:///")
    assert item.uri.isascii()
    assert FolderSource(folder).fetch(item.uri, item.etag) == b"content"


def test_settle_time_leaves_out_what_may_still_be_written(folder: Path) -> None:
    now = time.time()
    touch(folder / "old.jpg", mtime=now - 100)
    touch(folder / "new.jpg", mtime=now)
    touch(folder / "wrong_clock.jpg", mtime=now + 10**8)
    assert names(scan(folder, settle_seconds=50), folder) == ["old.jpg", "wrong_clock.jpg"]
    assert len(scan(folder)) == 3


def test_strange_files_neither_stop_nor_block_a_scan(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(folder / "real.jpg")
    touch(tmp_path / "elsewhere" / "outside.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "nowhere.jpg").symlink_to("does-not-exist.jpg")
    (folder / "link.jpg").symlink_to("real.jpg")
    (folder / "up").symlink_to("..")
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(folder)  # a socket's path may have 108 characters only
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(before)
    with caplog.at_level(logging.WARNING):
        assert names(scan(folder), folder) == ["link.jpg", "real.jpg"]
    assert "loop.jpg: left out of the scan" in caplog.text


def test_a_file_that_vanishes_during_the_scan_is_left_out(folder: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "c.jpg"):
        touch(folder / name)
    items = FolderSource(folder).scan()
    first = next(items)
    (folder / "b" / "2.jpg").unlink()
    (folder / "b").rmdir()
    (folder / "c.jpg").unlink()
    assert names([first, *items], folder) == ["a/1.jpg"]


@pytest.mark.parametrize("ahead", [0, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_pages_go_on_behind_any_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, count: int) -> None:
    monkeypatch.setattr(folder_module, "_PAGE", 2)
    monkeypatch.setattr(folder_module, "_AHEAD", ahead)
    for number in range(count):
        touch(folder / f"{number % 2}/{number}.jpg")
        touch(folder / f"{number}.jpg")
    (folder / "0/none").mkdir(parents=True)
    every = names(scan(folder), folder)

    def behind(after: str) -> list[tuple[str, list[str]]]:
        pages = list(FolderSource(folder).pages(after))
        assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
        return [(page.after, names([item for run in page.runs for item in run.items()], folder)) for page in pages]

    pages = behind("")
    assert [name for _, some in pages for name in some] == every
    for number, (after, _) in enumerate(pages[:-1]):
        assert [name for _, some in behind(after) for name in some] == [
            n for _, some in pages[number + 1 :] for n in some
        ]


def test_a_file_that_cannot_be_looked_at_costs_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "a/3.jpg", os.fsdecode(b"b/\xff.jpg"), "c/4.jpg"):
        touch(folder / name)
    os.mkfifo(folder / "a/2.jpg")
    real = os.stat

    def stat(path: str, **options: Any) -> os.stat_result:
        if path.endswith("2.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, **options)

    monkeypatch.setattr(folder_files.os, "stat", stat)
    (page,) = FolderSource(folder).pages()
    found = [item for run in page.runs for item in run.items()]
    assert [(item.uri[-5:], item.size) for item in found] == [("1.jpg", 1), ("3.jpg", 1), ("F.jpg", 1), ("4.jpg", 1)]
    assert not page.whole


@pytest.mark.parametrize("nanoseconds", [-1, -1_000_000_001, 0, 10_413_792_000_000_000_007])
def test_any_time_tells_versions_apart(folder: Path, nanoseconds: int) -> None:
    touch(folder / "a.jpg")
    os.utime(folder / "a.jpg", ns=(nanoseconds, nanoseconds))
    (item,) = scan(folder)
    assert FolderSource(folder).fetch(item.uri, item.etag) == b"x"
    os.utime(folder / "a.jpg", ns=(nanoseconds - 1, nanoseconds - 1))
    (other,) = scan(folder)
    assert other.etag != item.etag


def test_a_scan_of_no_folder_says_so(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(folder / "absent")


def test_size_and_time_are_those_of_the_file(folder: Path) -> None:
    touch(folder / "a.jpg", b"12345", mtime=1_500_000_000)
    touch(folder / "b.jpg", b"12345", mtime=-10_000)
    first, second = scan(folder)
    assert (first.size, first.etag) == (5, "5-1500000000000000000")
    assert first.modified is not None
    assert first.modified.isoformat() == "2017-07-14T02:40:00+00:00"
    assert second.etag == "5--10000000000000"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda path: path.unlink(), "gone"),
        (lambda path: touch(path, b"other"), "gone"),
        (lambda path: os.utime(path, (1, 1)), "gone"),
        (lambda path: (path.unlink(), path.mkdir()), "unreadable"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "unreadable"),
    ],
    ids=["deleted", "changed", "touched", "folder", "loop"],
)
def test_fetch_refuses_what_was_not_planned(folder: Path, spoil: object, kind: str) -> None:
    touch(folder / "a.jpg")
    (item,) = scan(folder)
    spoil(folder / "a.jpg")  # type: ignore[operator]
    with pytest.raises(FetchError) as caught:
        FolderSource(folder).fetch(item.uri, item.etag)
    assert caught.value.kind == kind
    assert str(folder) not in str(caught.value)
