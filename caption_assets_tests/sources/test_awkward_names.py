"""Names that no one would choose, in every kind of dataset: each becomes media or a failure row, and leads nowhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
from aiohttp import web

from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets_tests.sources.servers import s3_server
from caption_assets_tests.sources.web_server import web_server

NAMES = [
    "with\nnewline.jpg",
    "../up.jpg",
    "sub/../../up.jpg",
    "/root.jpg",
    "n" * 300 + ".jpg",
    "e\u0301.jpg",
    "é.jpg",
    "图片🙂 \t'\"`$;&|.jpg",
    "%2e%2e%2fx.jpg",
    "a#b?c.jpg",
    "..jpg",
    "-rf.jpg",
    "C:\\x.jpg",
    "nul\0.jpg",
]


Made = tuple[int, int, dict[str, object]]
"""How many become media and how many failures, and the dataset."""


@pytest.fixture(scope="module")
def picture(pictures: Path) -> bytes:
    return next(path for path in sorted(pictures.iterdir()) if path.suffix in (".jpg", ".png")).read_bytes()


def is_file_name(name: str) -> bool:
    return "\0" not in name and "/" not in name and len(name) < 255


def folder(root: Path, picture: bytes) -> Made:
    """The names that a folder can hold."""
    usable = [name for name in NAMES if is_file_name(name) and not name.startswith(".")]
    for name in usable:
        (root / name).write_bytes(picture)
    (root / ("d" * 255)).mkdir()
    (root / ("d" * 255) / ("n" * 251 + ".jpg")).write_bytes(picture)
    return len(usable) + 1, 0, {"kind": "folder", "path": str(root)}


def tars(root: Path, picture: bytes) -> Made:
    """All of them, and links to where nothing may be read."""
    with tarfile.open(root / "s.tar", "w") as file:
        usable = [name for name in NAMES if "\0" not in name]
        for name in usable:
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            file.addfile(member, io.BytesIO(picture))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type, member.linkname = kind, "/etc/hostname"
            file.addfile(member)
    return len(usable), 5, {"kind": "webdataset", "path": str(root / "s.tar")}


def bucket(root: Path, picture: bytes) -> Made:
    """Those that are keys."""
    s3 = fsspec.filesystem("s3")
    s3.call_s3("create_bucket", Bucket="awkward")
    usable = [name for name in NAMES if "\0" not in name and "\n" not in name]
    for name in usable:
        s3.call_s3("put_object", Bucket="awkward", Key=name, Body=picture)
    return len(usable), 0, {"kind": "bucket", "url": "s3://awkward"}


def lines(root: Path, picture: bytes) -> Made:
    """All of them, of which some are files."""
    usable = [name for name in NAMES if is_file_name(name)]
    for name in usable:
        (root / name).write_bytes(picture)
    (root / "list.jsonl").write_text("\n".join(json.dumps({"path": name}) for name in NAMES))
    return len(usable), len(NAMES) - len(usable), {"kind": "jsonl", "path": str(root / "list.jsonl")}


def urls(root: Path, picture: bytes) -> Made:
    """All of them, quoted and as they are."""
    spellings = {spelled for name in NAMES for spelled in (quote(name), name)}
    rows = [json.dumps({"url": f"{ADDRESS[0]}/{spelled}"}) for spelled in sorted(spellings)]
    (root / "list.jsonl").write_text("\n".join(rows))
    web_options = {"allow_hosts": ["127.0.0.1"], "backoff_seconds": 0, "per_second": 1000, "robots": False}
    return len(rows), 0, {"kind": "url_list", "path": str(root / "list.jsonl"), "web": web_options}


ADDRESS: list[str] = []


@pytest.fixture
def servers(picture: bytes) -> Iterator[None]:
    """An S3 store, and a web server that has every picture."""
    with s3_server(), web_server() as server:
        server.otherwise = lambda request: web.Response(body=picture)
        ADDRESS[:] = [server.url("").rstrip("/")]
        yield


@pytest.mark.parametrize("make", [folder, tars, bucket, lines, urls])
def test_every_name_is_media_or_a_failure(
    make: Callable[[Path, bytes], Made],
    make_config: Callable[..., PipelineConfig],
    tmp_path: Path,
    picture: bytes,
    servers: None,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    media, failures, entry = make(root, picture)
    before = everything(tmp_path)
    config = make_config(datasets={"d": entry})
    lake, source = Lake(config.lake), open_source(config, "d")
    assert plan_dataset(lake, "d", source, 100).new_items == media + failures
    report = build_media(lake, Shard("d", 0), source, config.media, "run")
    assert (report.rows, report.failed) == (media, failures)
    assert set(report.failure_kinds) <= {"bad_row", "gone", "unreadable"}
    planned = {item.uri for item in read_plan(lake, Shard("d", 0))}
    told = read_index(lake, Shard("d", 0)) + read_failures(lake, "media", Shard("d", 0))
    assert {row["uri"] for row in told} == planned
    new = everything(tmp_path) - before - {tmp_path / "pipeline.yaml"}
    assert all(path.is_relative_to(tmp_path / "lake") for path in new)
    with tarfile.open(tmp_path / "lake" / "media" / "dataset=d" / "d-000000.tar") as segment:
        assert all(len(name) < 80 and "/" not in name for name in segment.getnames())
    assert plan_dataset(lake, "d", open_source(config, "d"), 100).new_items == 0


def everything(folder: Path) -> set[Path]:
    return {Path(where) / name for where, folders, files in os.walk(folder) for name in [*folders, *files]}
