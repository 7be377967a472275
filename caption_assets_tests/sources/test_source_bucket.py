"""A bucket's scan and fetch, on S3 over HTTP, in memory, on a disk, and behind an HTTP listing."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.files import FileFilter, sidecar_columns
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, planned_shards, read_plan
from caption_assets_tests.sources.servers import s3_server
from caption_assets_tests.sources.test_source_folder import touch

AWKWARD = [
    " leading.jpg",
    "a b.jpg",
    "100%25.jpg",
    "%2e%2e.jpg",
    "plus+&=?versionId=1.jpg",
    "图片🙂.jpg",
    "é.jpg",
    "e\u0301.jpg",
    ".hidden.jpg",
    "..jpg",
    "sub/.dir/x.jpg",
    "#hash.jpg",
    "[1]*.jpg",
    "quote'\".JPG",
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str) -> str:
    """Name of an empty bucket."""
    name = f"b{uuid.uuid4().hex}"
    client().call_s3("create_bucket", Bucket=name)
    return name


def client() -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem()


def put(bucket: str, key: str, data: bytes = b"x") -> None:
    client().call_s3("put_object", Bucket=bucket, Key=key, Body=data)


def keys(items: list[Item], root: str) -> list[str]:
    return [item.uri.removeprefix(root) for item in items]


def kind_of(source: BucketSource, item: Item) -> str:
    with pytest.raises(FetchError) as caught:
        source.fetch(item.uri, item.etag)
    assert item.uri not in str(caught.value)
    return caught.value.kind


def fill(bucket: str, count: int) -> None:
    async def put_all() -> None:
        for number in range(count):  # arrival order is not key order
            await fs._call_s3("put_object", Bucket=bucket, Key=f"in/{number * 7919 % count:06d}.jpg", Body=b"x")

    fs = client()
    fsspec.asyn.sync(fs.loop, put_all)


@pytest.mark.parametrize("count", [1001, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_page_of_a_listing_is_planned_once(lake: Lake, bucket: str, count: int) -> None:
    fill(bucket, count)
    source = BucketSource(f"s3://{bucket}/in")
    assert plan_dataset(lake, "d", source, count // 3).new_items == count
    planned = [each.uri for shard in planned_shards(lake, "d") for each in read_plan(lake, shard)]
    assert planned == [f"s3://{bucket}/in/{number:06d}.jpg" for number in range(count)]
    put(bucket, "in/000000a.jpg")
    assert plan_dataset(lake, "d", source, 1000).new_items == 1


@pytest.mark.parametrize("key", AWKWARD)
def test_any_key_can_be_scanned_planned_and_fetched(lake: Lake, bucket: str, key: str) -> None:
    put(bucket, key, b"content")
    source = BucketSource(f"s3://{bucket}")
    plan = plan_dataset(lake, "d", source, 10)
    (item,) = read_plan(lake, plan.shards[0])
    assert (item.uri, item.size) == (f"s3://{bucket}/{key}", 7)
    assert item.modified is not None
    assert source.fetch(item.uri, item.etag) == b"content"


def test_a_prefix_is_a_folder_and_markers_are_no_pictures(bucket: str) -> None:
    for key in ["in/", "in/a.jpg", "in/sub/b.jpg", "in/sub.jpg/", "in//c.jpg", "input/d.jpg", "in.jpg", "in/notes.md"]:
        put(bucket, key)
    root = f"s3://{bucket}/in/"
    assert keys(list(BucketSource(f"s3://{bucket}/in").scan()), root) == ["/c.jpg", "a.jpg", "sub/b.jpg"]
    assert keys(list(BucketSource(root, recursive=False).scan()), root) == ["a.jpg"]
    assert len(list(BucketSource(f"s3://{bucket}").scan())) == 5
    with pytest.raises(FileNotFoundError):
        list(BucketSource(f"s3://{bucket}-absent").scan())


def test_a_replaced_object_is_a_new_item_and_the_old_one_is_gone(lake: Lake, bucket: str) -> None:
    source = BucketSource(f"s3://{bucket}")
    put(bucket, "a.jpg", b"1")
    (old,) = source.scan()
    assert plan_dataset(lake, "d", source, 10).new_items == 1
    put(bucket, "a.jpg", b"2")
    assert plan_dataset(lake, "d", source, 10).new_items == 1
    (new,) = source.scan()
    assert kind_of(source, old) == "gone"
    assert source.fetch(new.uri, new.etag) == b"2"
    client().call_s3("delete_object", Bucket=bucket, Key="a.jpg")
    assert kind_of(source, new) == "gone"


def test_what_went_between_plan_and_fetch_is_a_failure_row(
    make_config: Callable[..., PipelineConfig], bucket: str, pictures: Path
) -> None:
    files = [path.read_bytes() for path in sorted(pictures.iterdir()) if path.suffix in (".jpg", ".png")]
    for number, file in enumerate(files):
        put(bucket, f"{number:02d}.png", file)
    config = make_config(datasets={"d": {"kind": "bucket", "url": f"s3://{bucket}", "at_once": 4, "ahead_mb": 0.02}})
    lake, source, shard = Lake(config.lake), open_source(config, "d"), Shard("d", 0)
    plan_dataset(lake, "d", source, 100)
    client().call_s3("delete_object", Bucket=bucket, Key="03.png")
    put(bucket, "05.png", files[0])
    report = build_media(lake, shard, source, config.media, "run")
    assert (report.rows, report.failure_kinds) == (len(files) - 2, {"gone": 2})
    failures = read_failures(lake, "media", shard)
    assert [row["uri"].rpartition("/")[2] for row in failures] == ["03.png", "05.png"]
    assert plan_dataset(lake, "d", source, 100).new_items == 1


def test_a_refusal_is_a_failure_of_its_own(server: str, bucket: str) -> None:
    put(bucket, "a.jpg")
    source = BucketSource(f"s3://{bucket}")
    (item,) = source.scan()
    authenticate_after(server, "0")
    try:
        assert kind_of(source, item) == "forbidden"
        with pytest.raises(PermissionError):
            list(source.scan())
    finally:
        authenticate_after(server, "inf")


def authenticate_after(server: str, requests: str) -> None:
    request = urllib.request.Request(
        f"{server}/moto-api/reset-auth", data=requests.encode(), headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()


def test_sidecars_of_keys_become_source_columns(lake: Lake, bucket: str) -> None:
    put(bucket, "a.jpg")
    put(bucket, "a.json", '{"caption": "“ä”", "n": {"x": 1}}'.encode())
    put(bucket, "a.txt", b"hello\n")
    put(bucket, "a.b.jpg")
    put(bucket, "a-1.jpg")
    put(bucket, "empty.png")
    put(bucket, "empty.txt", b"")
    put(bucket, "bad.json", b"{")
    put(bucket, "bad.webp")
    plan = plan_dataset(lake, "d", BucketSource(f"s3://{bucket}"), 10)
    found = {each.uri.rpartition("/")[2]: each.source for each in read_plan(lake, plan.shards[0])}
    error = found.pop("bad.webp").pop("sidecar_error")
    assert error.startswith("bad.json: not JSON")
    assert found == {
        "a.jpg": {"caption": "“ä”", "n": {"x": 1}, "txt": "hello"},
        "a.b.jpg": {},
        "a-1.jpg": {},
        "empty.png": {"txt": ""},
    }


@pytest.fixture(params=["memory", "file", "http"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[str, bytes], None]]]:
    """URL of an empty store, and what puts a file there."""
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        yield url, lambda name, data: fsspec.filesystem("memory").pipe(f"{url}/{name}", data)
        return
    root = tmp_path / "root"
    root.mkdir()

    def write(name: str, data: bytes) -> None:
        touch(root / name, data, mtime=os.stat(root).st_mtime - len(data))

    if request.param == "file":
        yield f"file://{root}", write
        return
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listing:
        threading.Thread(target=listing.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listing.server_port}", write
        listing.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Tests print nothing."""


def test_any_filesystem_is_a_bucket(lake: Lake, anywhere: tuple[str, Callable[[str, bytes], None]]) -> None:
    url, write = anywhere
    for name, data in [("b.jpg", b"bb"), ("a/z.PNG", b"zzz"), ("a.jpg", b"a"), ("a.json", b'{"n": 1}'), ("x.md", b"x")]:
        write(name, data)
    source = BucketSource(url)
    plan = plan_dataset(lake, "d", source, 10)
    items = read_plan(lake, plan.shards[0])
    assert keys(items, f"{url.replace('memory://', 'memory:///')}/") == ["a.jpg", "b.jpg", "a/z.PNG"]
    assert [item.source for item in items] == [{"n": 1}, {}, {}]
    assert [(item.size, source.fetch(item.uri, item.etag)) for item in items] == [(1, b"a"), (2, b"bb"), (3, b"zzz")]
    assert plan_dataset(lake, "d", source, 10).new_items == 0
    assert len(list(BucketSource(url, recursive=False).scan())) == 2
    write("a.jpg", b"other")
    assert kind_of(source, items[0]) == "gone"
    assert plan_dataset(lake, "d", source, 10).new_items == 1


def test_a_deleted_file_is_gone_anywhere(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    source = BucketSource(f"file://{tmp_path}")
    (item,) = source.scan()
    (tmp_path / "a.jpg").unlink()
    assert kind_of(source, item) == "gone"


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["a.jpg", "b.png", "t/a.jpg", "t/u/c.jpg"]),
        (["*.jpg"], [], ["a.jpg", "t/a.jpg", "t/u/c.jpg"]),
        (["t/*"], [], ["t/a.jpg"]),
        (["t/**"], [], ["t/a.jpg", "t/u/c.jpg"]),
        (["**/a.jpg", "b.*"], [], ["a.jpg", "b.png", "t/a.jpg"]),
        ([], ["a.*", "t/u/**"], ["b.png"]),
        (["[ab].*"], ["t/*"], ["a.jpg", "b.png"]),
        (["*.txt"], [], []),
    ],
)
def test_globs(include: list[str], exclude: list[str], expected: list[str]) -> None:
    files = FileFilter(include, exclude)
    there = ["a.jpg", "b.png", "t/a.jpg", "t/u/c.jpg", "t/d.txt", "a.md"]
    assert [path for path in there if files.is_picture(path)] == expected


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("txt", "\ufeff ä \n".encode(), {"txt": "ä"}),
        ("json", b"[1]", {"json": [1]}),
        ("json", b"null", {"json": None}),
        ("cls", b"7\n", {"cls": "7"}),
        ("txt", b"\xff", "not UTF-8"),
        ("json", b'{"a": NaN}', "NaN"),
        ("json", b'"\\ud800"', "not valid Unicode"),
        ("json", b"[" * 100_000, "nested|not JSON"),
        ("txt", b"x" * (1 << 20) + b"x", "longer than"),
    ],
)
def test_sidecar_columns(kind: str, data: bytes, expected: object) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            sidecar_columns(kind, data)
    else:
        assert sidecar_columns(kind, data) == expected


def test_the_pipeline_file_opens_a_bucket(make_config: Callable[..., PipelineConfig], tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        touch(tmp_path / "root" / name)
    entry = {"kind": "bucket", "url": f"file://{tmp_path}/root", "exclude": ["b.*"], "recursive": False}
    config = make_config(datasets={"d": entry})
    assert [Path(item.uri).name for item in open_source(config, "d").scan()] == ["a.jpg"]
    assert config.dataset_place("d") == entry["url"]
    missing = make_config(datasets={"d": {"kind": "bucket", "url": "gdrive://x"}})
    with pytest.raises(ConfigError, match=r"pipeline.yaml: datasets.d.url: gdrive://x cannot be opened"):
        open_source(missing, "d")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"url": "nowhere"}, "datasets.d.url: 'nowhere' is not a URL; write one like s3://"),
        ({"url": "xyz://a"}, "datasets.d.url: there is no filesystem for xyz://; use s3"),
        ({"url": "s3://b", "exclude": ["/x"]}, "datasets.d.exclude: '/x' matches nothing; write a name"),
        ({"url": "s3://b", "recursiv": True}, "datasets.d.recursiv: unknown key; did you mean 'recursive'?"),
        ({}, "datasets.d.url: is missing; add it"),
    ],
)
def test_mistakes_name_field_and_remedy(
    make_config: Callable[..., PipelineConfig], entry: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(datasets={"d": {"kind": "bucket", **entry}})
    assert message in str(caught.value)


def test_sidecars_in_a_folder(make_config: Callable[..., PipelineConfig], tmp_path: Path, lake: Lake) -> None:
    for name, data in [("p/a.jpg", b"x"), ("p/a.txt", b"hello"), ("p/s/a.jpg", b"x"), ("p/s/a.JSON", b'{"k": [1]}')]:
        touch(tmp_path / name, data)
    for sidecars, expected in [(True, [{"txt": "hello"}, {"k": [1]}]), (False, [{}, {}])]:
        config = make_config(datasets={"d": {"kind": "folder", "path": "p", "sidecars": sidecars}})
        plan = plan_dataset(lake, f"d{sidecars:d}", open_source(config, "d"), 10)
        assert [json.loads(json.dumps(each.source)) for each in read_plan(lake, plan.shards[0])] == expected
