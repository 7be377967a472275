"""A bucket of a million keys, and one that is far away."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets_tests.sources.s3_stub import Numbered, S3Stub, s3_stub

PLAN = """
import sys, time
from caption_assets.lake.store import Lake
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.planner import plan_dataset
from caption_assets_tests import resident

lake, source, started = Lake(sys.argv[1]), BucketSource("s3://b"), time.monotonic()
for _ in range(2):
    planned = plan_dataset(lake, "d", source, 10_000)
    print(planned.new_items, len(planned.shards), round(time.monotonic() - started))
print(round(resident.most()))
"""


@pytest.mark.slow
def test_a_million_keys_are_planned_page_by_page_in_500_megabytes(tmp_path: Path) -> None:
    with s3_stub(S3Stub(Numbered(1_000_000))):
        command = [sys.executable, "-c", PLAN, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=590, check=True)
        print(done.stdout)
    first, second, megabytes = done.stdout.splitlines()
    assert first.startswith("1000000 100 ")
    assert second.startswith("0 100 ")
    assert int(megabytes) <= 500


def test_a_prefix_is_listed_page_by_page(lake: Lake) -> None:
    stub = S3Stub(Numbered(4500))
    with s3_stub(stub):
        assert plan_dataset(lake, "d", BucketSource("s3://b"), 1000).new_items == 4500
        assert stub.pages == 5
        (one,) = plan_dataset(lake, "e", BucketSource("s3://b/0003"), 1000).shards
        assert [item.uri for item in read_plan(lake, one)] == [f"s3://b/0003/{n:07d}.jpg" for n in range(3000, 4000)]
        assert stub.pages == 6
        assert list(BucketSource("s3://b", recursive=False).scan()) == []
        assert plan_dataset(lake, "d", BucketSource("s3://b"), 1000).new_items == 0


def test_many_objects_are_fetched_during_one_round_trip(lake: Lake) -> None:
    stub = S3Stub(Numbered(64), b"content")
    with s3_stub(stub):
        source = BucketSource("s3://b")
        plan_dataset(lake, "d", source, 100)
        items = read_plan(lake, Shard("d", 0))
        source.fetch(items[0].uri, items[0].etag)  # the connection's setup is not what is measured
        stub.delay = 0.25  # beside which a busy machine's own time does not count
        started = time.monotonic()
        fetches = [source.start(item.uri, item.etag) for item in items]
        assert [each.result(30) for each in fetches] == [b"content"] * 64
        assert time.monotonic() - started < 64 * stub.delay / 3
        assert stub.most == source.ahead == 32


def test_an_object_that_is_too_big_is_not_read(lake: Lake) -> None:
    stub = S3Stub(Numbered(1), b"x" * 1000)
    with s3_stub(stub):
        (item,) = BucketSource("s3://b").scan()
        assert BucketSource("s3://b", fetches=Ahead(limit=1000)).fetch(item.uri, item.etag) == b"x" * 1000
        with pytest.raises(FetchError, match="longer than 999 bytes") as caught:
            BucketSource("s3://b", fetches=Ahead(limit=999)).fetch(item.uri, item.etag)
        assert caught.value.kind == "too_large"
