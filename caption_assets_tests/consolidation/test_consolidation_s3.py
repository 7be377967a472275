"""Consolidation of a lake in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
import s3fs

from caption_assets.consolidation.captions import captioned_shards
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.verify import verify_shard
from caption_assets_tests import invariants
from caption_assets_tests.consolidation.small import MakeConfig, fill, keys, make, merge, shown
from caption_assets_tests.sources.servers import s3_server


@pytest.mark.slow
def test_a_lake_in_a_bucket(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    with s3_server():
        s3fs.S3FileSystem().mkdir("bucket")
        folder = tmp_path / "in"
        few = {"library": ["demo"], "enabled": ["scene_caption", "scene_count"]}
        config = make(make_config, folder, lake="s3://bucket/lake", perspectives=few)
        shards = fill(config, folder, pictures)
        before = shown(config)
        report = merge(config)
        assert report.swept == shards
        assert keys(config) == ["demo-000003"]
        assert shown(config) == before
        lake = Lake(config.lake)
        invariants.hold(config, lake)
        assert verify_shard(lake, Shard("demo", 3)).damaged == {}
        assert captioned_shards(lake, "demo") == {"demo-000003"}
        assert not [path for path in lake.find("") if "demo-000001" in path]
