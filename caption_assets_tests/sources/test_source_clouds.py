"""Buckets on Google's and Azure's stores, and an Azure lake, over HTTP against servers that speak their protocols.

Google's stands in the development extra. Azure's (Azurite) comes from npm, so its tests are slow ones.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import fsspec
import fsspec.config
import pytest

from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index, read_picture
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, planned_shards, read_plan
from caption_assets_tests.sources.servers import free_port, wait_for

_NAMES = ["100%25.jpg", "a b.jpg", "b/.dir/x.jpg", "e\u0301.jpg", "plus+&=1.jpg", "[1].jpg", "图片🙂.jpg"]
_AZURE_ACCOUNT, _AZURE_KEY = "account1", base64.b64encode(b"a key for tests").decode()


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    server = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        yield
    finally:
        server.kill()
        server.wait()


@contextmanager
def google() -> Iterator[str]:
    port = free_port()
    emulator = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    known = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{port}"}
    # its package asks another, encrypted service what kind of bucket it has, which no emulator answers
    plain = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    with (
        running([emulator, "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"], port),
        mock.patch.dict(os.environ, plain),
        mock.patch.dict(fsspec.config.conf, {"gs": known, "gcs": known}),
    ):
        yield "gs"


@contextmanager
def azure(folder: Path) -> Iterator[str]:
    npm = shutil.which("npm")
    assert npm, "Azurite needs npm"
    subprocess.run([npm, "install", "--silent", "--prefix", str(folder), "azurite@3"], check=True, capture_output=True)
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data")]
    blobs = f"http://127.0.0.1:{port}/{_AZURE_ACCOUNT}"
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY};BlobEndpoint={blobs};"
    )
    command = [str(folder / "node_modules" / ".bin" / "azurite-blob"), *place, "--skipApiVersionCheck", "--silent"]
    with (
        running(command, port, AZURITE_ACCOUNTS=f"{_AZURE_ACCOUNT}:{_AZURE_KEY}"),
        mock.patch.dict(os.environ, {"AZURE_STORAGE_CONNECTION_STRING": connection}),
    ):
        yield "abfs"


@pytest.fixture(scope="module", params=["google", pytest.param("azure", marks=pytest.mark.slow)])
def protocol(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with google() if request.param == "google" else azure(tmp_path_factory.mktemp("azurite")) as protocol:
        yield protocol
        fsspec.filesystem(protocol).clear_instance_cache()


@pytest.fixture
def bucket(protocol: str) -> str:
    """URL of an empty bucket."""
    name = f"b{uuid.uuid4().hex}"
    fsspec.filesystem(protocol).mkdir(name)
    return f"{protocol}://{name}"


def put(url: str, data: bytes = b"x") -> None:
    fsspec.filesystem(url.partition("://")[0]).pipe_file(url, data)


def delete(url: str) -> None:
    fsspec.filesystem(url.partition("://")[0]).rm_file(url)


def kind_of(source: BucketSource, item: Item) -> str:
    with pytest.raises(FetchError) as caught:
        source.fetch(item.uri, item.etag)
    return caught.value.kind


def test_any_key_can_be_scanned_planned_and_fetched(lake: Lake, bucket: str) -> None:
    for name in _NAMES:
        put(f"{bucket}/in/{name}", name.encode())
    put(f"{bucket}/in/a b.txt", b"a word\n")
    put(f"{bucket}/input.jpg")
    source = BucketSource(f"{bucket}/in")
    plan_dataset(lake, "d", source, 3)
    items = [item for shard in planned_shards(lake, "d") for item in read_plan(lake, shard)]
    assert sorted(item.uri for item in items) == sorted(f"{bucket}/in/{name}" for name in _NAMES)
    assert all(item.etag and item.modified for item in items)
    assert {item.uri: item.source for item in items}[f"{bucket}/in/a b.jpg"] == {"txt": "a word"}
    for item in items:
        assert source.fetch(item.uri, item.etag).decode() == item.uri.removeprefix(f"{bucket}/in/")
    assert plan_dataset(lake, "d", source, 3).new_items == 0
    with pytest.raises(FileNotFoundError):
        list(BucketSource(f"{bucket}-absent").scan())


def test_a_replaced_object_is_a_new_item_and_the_old_one_is_gone(lake: Lake, bucket: str) -> None:
    source = BucketSource(bucket)
    put(f"{bucket}/a.jpg", b"1")
    (old,) = source.scan()
    assert plan_dataset(lake, "d", source, 10).new_items == 1
    put(f"{bucket}/a.jpg", b"2")
    assert plan_dataset(lake, "d", source, 10).new_items == 1
    (new,) = source.scan()
    assert kind_of(source, old) == "gone"
    assert source.fetch(new.uri, new.etag) == b"2"
    delete(f"{bucket}/a.jpg")
    assert kind_of(source, new) == "gone"


def test_pictures_of_a_bucket_become_media(
    make_config: Callable[..., PipelineConfig], bucket: str, pictures: Path, protocol: str
) -> None:
    files = [path for path in sorted(pictures.iterdir()) if path.suffix in (".jpg", ".png")][:6]
    for file in files:
        put(f"{bucket}/pictures/{file.name}", file.read_bytes())
    config = make_config(datasets={"d": {"kind": "bucket", "url": f"{bucket}/pictures"}})
    # Google's stand-in makes an object whether or not there is one, so no lake can be tested on it
    lake = Lake(config.lake if protocol == "gs" else f"{bucket}/lake")
    source, shard = open_source(config, "d"), Shard("d", 0)
    assert plan_dataset(lake, "d", source, 100).new_items == len(files)
    delete(f"{bucket}/pictures/{files[2].name}")
    report = build_media(lake, shard, source, config.media, "run")
    assert (report.rows, report.failure_kinds) == (len(files) - 1, {"gone": 1})
    assert read_failures(lake, "media", shard)[0]["uri"] == f"{bucket}/pictures/{files[2].name}"
    assert all(len(read_picture(lake, row)) == row["length"] for row in read_index(lake, shard))
    assert plan_dataset(lake, "d", source, 100).new_items == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["azure"], indirect=True)
def test_a_claim_on_an_azure_lake_is_won_once(bucket: str) -> None:
    lake = Lake(f"{bucket}/lake")
    assert lake.create("claims/a", b"first")
    assert not lake.create("claims/a", b"second")
    assert lake.read("claims/a") == b"first"
