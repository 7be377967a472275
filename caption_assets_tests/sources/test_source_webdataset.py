"""Tar files: what is an item, where its bytes are, and that no member leads anywhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import webdataset

from caption_assets.config import PipelineConfig
from caption_assets.lake.store import Lake
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets.sources.webdataset import WebDatasetSource, member_name
from caption_assets_tests.sources.servers import s3_server

Member = tuple[str, bytes] | tarfile.TarInfo


def tar(path: Path, *members: Member, layout: int = tarfile.PAX_FORMAT) -> Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode, format=layout) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def names(items: list[Item]) -> list[str]:
    return [item.uri.rpartition("#")[2] for item in items]


def failure(source: WebDatasetSource, item: Item) -> tuple[str, str]:
    with pytest.raises(FetchError) as caught:
        source.fetch(item.uri, item.etag)
    return caught.value.kind, str(caught.value)


SAMPLES: list[Member] = [
    ("0/a.jpg", b"first"),
    ("0/a.json", json.dumps({"caption": "ä", "n": 1}).encode()),
    ("0/a.txt", b"text\n"),
    ("0/b.cls", b"7"),
    ("0/b.png", b"second"),
    ("0/b.seg.png", b"third"),
    ("readme.md", b"x"),
    ("c.json", b"{"),
    ("c.webp", b""),
]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz"])
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_pictures_and_what_stands_beside_them(lake: Lake, folder: Path, name: str, layout: int) -> None:
    source = WebDatasetSource(str(tar(folder / name, *SAMPLES, layout=layout)))
    plan = plan_dataset(lake, "d", source, 10)
    items = read_plan(lake, plan.shards[0])
    assert names(items) == ["0/a.jpg", "0/b.png", "0/b.seg.png", "c.webp"]
    *sources, broken = [item.source for item in items]
    assert sources == [{"caption": "ä", "n": 1, "txt": "text"}, {"cls": "7"}, {"cls": "7"}]
    assert broken["sidecar_error"].startswith("c.json: not JSON")
    contents = [b"first", b"second", b"third", b""]
    assert [source.fetch(item.uri, item.etag) for item in items] == contents
    assert [source.fetch(item.uri, item.etag) for item in reversed(items)] == contents[::-1]
    started = [source.start(item.uri, item.etag) for item in items]
    assert [each and each.result(30) for each in started] == (contents if name == "s.tar" else [None] * 4)
    assert plan_dataset(lake, "d", source, 10).new_items == 0


def test_what_the_webdataset_library_writes(folder: Path) -> None:
    pattern = str(folder / "out-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
        for number in range(20):
            writer.write({"__key__": f"{number:04d}", "jpg": bytes([number]) * 100, "json": {"n": number}})
    source = WebDatasetSource(str(folder / "out-*.tar"))
    items = list(source.scan())
    assert [item.source["n"] for item in items] == list(range(20))
    assert [source.fetch(item.uri, item.etag) for item in items] == [bytes([number]) * 100 for number in range(20)]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../x.jpg", "x.jpg"),
        ("/x.jpg", "x.jpg"),
        ("a/../../x.jpg", "a/x.jpg"),
        ("./x.jpg", "x.jpg"),
        ("a#b.jpg", "a%23b.jpg"),
        ("图片.jpg", "图片.jpg"),
        ("n" * 300 + ".jpg", "n" * 300 + ".jpg"),
        ("..", "_"),
    ],
)
def test_names_lead_nowhere(folder: Path, name: str, safe: str) -> None:
    assert member_name(name) == safe
    if safe != "_":
        source = WebDatasetSource(str(tar(folder / "s.tar", (name, b"x"))))
        (item,) = source.scan()
        assert item.uri == f"file://{folder}/s.tar#{safe}"
        assert source.fetch(item.uri, item.etag) == b"x"
    assert sorted(path.name for path in folder.iterdir()) in (["s.tar"], [])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_failures(folder: Path, kind: bytes) -> None:
    members = [special("a.jpg", kind, "/etc/hostname"), ("b.jpg", b"x"), special("b.json", kind, "/etc/hostname")]
    source = WebDatasetSource(str(tar(folder / "s.tar", *members)))
    link, plain = source.scan()
    assert failure(source, link) == ("bad_row", "the member is no plain file")
    assert (source.fetch(plain.uri, plain.etag), plain.source) == (b"x", {})


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
def test_a_replaced_tar_makes_new_items(folder: Path, name: str) -> None:
    tar(folder / name, ("a.jpg", b"x"), ("b.jpg", b"y"))
    source = WebDatasetSource(str(folder / name))
    old = list(source.scan())
    assert source.fetch(old[0].uri, old[0].etag) == b"x"
    tar(folder / name, ("a.jpg", b"longer" * 3000))
    assert [failure(source, item)[0] for item in old] == ["gone", "gone"]
    (new,) = source.scan()
    assert source.fetch(new.uri, new.etag) == b"longer" * 3000
    (folder / name).unlink()
    assert failure(source, new)[0] == "gone"
    with pytest.raises(FileNotFoundError):
        list(source.scan())


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_damaged_tar_costs_what_is_lost_and_no_more(folder: Path, name: str) -> None:
    contents = [os.urandom(8000) for _ in range(10)]
    path = tar(folder / name, *((f"{number}.jpg", content) for number, content in enumerate(contents)))
    tar(folder / "b.tar", ("last.jpg", b"x"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    source = WebDatasetSource(str(folder / "[ab].tar*"))
    *there, last = source.scan()
    good = [item for item in there if not item.uri.endswith("#")]
    (lost,) = [item for item in there if item.uri.endswith("#")]
    assert failure(source, lost)[0] == "bad_row"
    assert 0 < len(good) < 10
    assert [source.fetch(item.uri, item.etag) for item in good[:-1]] == contents[: len(good) - 1]
    assert source.fetch(last.uri, last.etag) == b"x"


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("rest", [b"", b"1.jpg", b"1.jpg" + b"\0" * 400, b"\0" * 300, b"garbage!" * 64])
def test_a_tar_whose_next_header_is_cut_off_or_damaged_is_not_finished(folder: Path, name: str, rest: bytes) -> None:
    whole = tar(folder / "whole", ("0.jpg", b"x" * 512), layout=tarfile.USTAR_FORMAT).read_bytes()
    content = whole[:1024] + rest
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    source = WebDatasetSource(str(folder / name))
    good, lost = source.scan()
    assert source.fetch(good.uri, good.etag) == b"x" * 512
    assert failure(source, lost)[0] == "bad_row"
    tar(folder / name)
    assert list(source.scan()) == []


def test_no_tar_at_all(folder: Path) -> None:
    (folder / "s.tar").write_bytes(b"<html>" * 1000)
    source = WebDatasetSource(str(folder / "s.tar"))
    (item,) = source.scan()
    assert failure(source, item)[0] == "bad_row"


def test_a_picture_of_a_tar_on_s3_is_one_range_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", *SAMPLES)
    with s3_server():
        s3 = fsspec.filesystem("s3")
        s3.call_s3("create_bucket", Bucket="tars")
        for name in ("0.tar", "1.tar"):
            s3.call_s3("put_object", Bucket="tars", Key=f"in/{name}", Body=path.read_bytes())
        source = WebDatasetSource("s3://tars/in/*.tar")
        items = list(source.scan())
        assert len(items) == 8
        assert [source.fetch(item.uri, item.etag) for item in items[4:]] == [b"first", b"second", b"third", b""]
        s3.call_s3("put_object", Bucket="tars", Key="in/1.tar", Body=b"other")
        assert failure(source, items[4])[0] == "gone"


def test_the_pipeline_file_opens_tars(make_config: Callable[..., PipelineConfig], tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", *SAMPLES)
    config = make_config(datasets={"d": {"kind": "webdataset", "path": "*.tar"}})
    assert len(list(open_source(config, "d").scan())) == 4
