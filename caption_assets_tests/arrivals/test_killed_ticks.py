"""A daemon killed before each change that a tick makes: every item is planned once, every shard handed over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from caption_assets.arrivals.waiting import read_waiting
from caption_assets.config import load_config
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards, read_plan
from caption_assets_tests.arrivals.aws import Aws, aws
from caption_assets_tests.arrivals.ticking import ticks
from caption_assets_tests.media.killing import deaths, run
from caption_assets_tests.sources.test_source_folder import touch


@pytest.fixture(scope="module")
def cloud() -> Iterator[Aws]:
    with aws() as cloud:
        yield cloud


def template_of(tmp_path: Path, dataset: dict[str, object]) -> Path:
    template = tmp_path / "template"
    (template / "daemon").mkdir(parents=True)
    settings = {"watch": True, "shard_size": 2, "max_wait_seconds": 3600, **dataset}
    document = {
        "lake": "./lake",
        "datasets": {"d": settings | {"scan_seconds": 1e-6}},  # so that the folders' times are kept, too
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
    }
    (template / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return template


def check(root: Path, expected: set[str], died: int) -> None:
    config = load_config(root / "pipeline.yaml", check_paths=False)
    lake = Lake(config.lake)
    shards = planned_shards(lake, "d")
    planned = sorted(item.uri for shard in shards for item in read_plan(lake, shard))
    assert planned == sorted(expected), f"killed before change {died}"
    for kind in ("registered", "launched"):
        told = {file.name.removeprefix(f"{kind}-") for file in (root / "daemon").glob(f"{kind}-*")}
        assert told == {shard.key for shard in shards}, f"{kind}; killed before change {died}"
    assert read_waiting(lake, "d") == []


@pytest.mark.parametrize(
    "later", ["0", pytest.param("120", marks=pytest.mark.slow)], ids=["planning and waiting", "closing what waited"]
)
def test_a_folder(tmp_path: Path, later: str) -> None:
    pictures = tmp_path / "pictures"
    for number in range(5):
        touch(pictures / f"{number}.jpg", mtime=time.time() - 30)
    template, root = template_of(tmp_path, {"kind": "folder", "path": str(pictures)}), tmp_path / "root"
    if later != "0":
        template.rename(root)
        assert run(ticks, str(root), "0") == 0
        assert len(read_waiting(Lake(str(root / "lake")), "d")) == 1
        root.rename(template)
    died = 0
    for died in deaths(template, root, ticks, later):
        assert run(ticks, str(root), "120", "121") == 0
        check(root, {str(pictures / f"{number}.jpg") for number in range(5)}, died)
    assert died >= 20, "plans, tables, manifests, what waits, the cursor, and the scratch files of each"


@pytest.mark.slow
def test_a_bucket_with_notifications(tmp_path: Path, cloud: Aws) -> None:
    bucket, queue = cloud.bucket(), cloud.queue()
    for number in range(3):
        cloud.put(bucket, f"{number}.jpg")
    dataset: dict[str, object] = {
        "kind": "bucket",
        "url": f"s3://{bucket}",
        "options": cloud.options,
        "notifications": {"sqs": {"queue": queue, "endpoint_url": cloud.url, "region": "us-east-1"}},
    }
    template, root = template_of(tmp_path, dataset), tmp_path / "root"
    cloud.send(queue, json.dumps(cloud.created(bucket, "0.jpg")))
    died = 0
    for died in deaths(template, root, ticks, "0"):
        if died % 3 == 0:
            cloud.send(queue, json.dumps(cloud.created(bucket, "1.jpg")))
        assert run(ticks, str(root), "120", "121") == 0
        check(root, {f"s3://{bucket}/{number}.jpg" for number in range(3)}, died)
    assert died >= 20
    cloud.wait_until_empty(queue)
