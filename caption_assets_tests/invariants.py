"""What must hold of a lake after any attack, and what of it an undisturbed run's must equal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import duckdb

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures, read_index, read_picture
from caption_assets.sources.planner import planned_shards, read_plan
from caption_assets_tests.support import bound_of

_SETTLED = re.compile(
    r"(shards|media|captions|failures|runs)/.*/empty\.parquet|shards/dataset=\w+/[\w-]+\.parquet|current\.json"
    r"|catalog\.duckdb|media/dataset=\w+/[\w-]+\.(parquet|(\d+\.)?tar)|failures/stage=\w+/dataset=\w+/[\w-]+\.parquet"
    r"|runs/[\d-]+/[\w-]+\.parquet"
    r"|captions/perspective=\w+/fingerprint=\w+/dataset=\w+/shard=[\w-]+/(?P<rows>(part|sealed)-[\w-]+\.parquet)"
)


def contents(config: PipelineConfig, lake: Lake, dataset: str = "demo") -> dict[tuple[str, ...], Any]:
    """All that does not say who made it and when: stored pictures by item, outputs by perspective and picture."""
    found: dict[tuple[str, ...], Any] = {}
    for shard in planned_shards(lake, dataset):
        for row in read_index(lake, shard):
            found["media", shard.key, row["uri"]] = row["media_id"], row["bytes_sha256"]
        for failure in read_failures(lake, "media", shard):
            found["failure", shard.key, failure["uri"]] = failure["kind"]
        for name, bound in bound_of(config).items():
            for media_id, row in rows.read_rows(lake, bound, shard).items():
                found[name, shard.key, media_id] = row["output"], row["output_digest"], row["input_digest"]
    return found


def hold(config: PipelineConfig, lake: Lake, dataset: str = "demo") -> None:
    """Assert the invariants: nothing lost, nothing twice, and every stored picture readable."""
    shards = planned_shards(lake, dataset)
    for shard in shards:
        index, failed = read_index(lake, shard), read_failures(lake, "media", shard)
        items = [item.key for item in read_plan(lake, shard)]
        assert sorted(items) == sorted((row["uri"], row["etag"]) for row in [*index, *failed])
        assert all(len(read_picture(lake, row)) == row["length"] for row in index)
        _hold_captions(config, lake, shard, {row["media_id"] for row in index})
    with open_views(config) as views:
        _hold_views(config, views, shards)


def _hold_captions(config: PipelineConfig, lake: Lake, shard: Shard, media_ids: set[str]) -> None:
    for name, bound in bound_of(config).items():
        captioned = set(rows.read_rows(lake, bound, shard, []))
        failed = [row["media_id"] for row in read_failures(lake, name, shard)]
        assert len(set(failed)) == len(failed), (name, shard)
        assert media_ids == captioned | set(failed), f"{name}, {shard.key}: distinct media = captions + failures"


def _hold_views(config: PipelineConfig, views: duckdb.DuckDBPyConnection, shards: list[Shard]) -> None:
    for name in bound_of(config):
        twice = f'SELECT media_id, fingerprint FROM "captions_{name}" GROUP BY ALL HAVING count(*) > 1'
        assert views.execute(twice).fetchall() == []
        twice = f'SELECT media_id, shard, fingerprint FROM rows."{name}" GROUP BY ALL HAVING count(*) > 1'
        assert views.execute(twice).fetchall() == []
    told = views.execute("SELECT shard, planned, media, pictures, media_failures FROM shards").fetchall()
    assert [row[0] for row in told] == [shard.key for shard in shards]
    assert all(planned == media + failed for _, planned, media, _, failed in told)


def complete(config: PipelineConfig, lake: Lake) -> None:
    """Assert that the views know of nothing left to do."""
    with open_views(config) as views:
        assert views.execute("SELECT * FROM stale").fetchall() == []


def tidy(lake: Lake, *, sealed: bool = True) -> None:
    """Assert that a folder lake holds no file but those that a finished run leaves; ages what killed writers left.

    Args:
        sealed: whether each shard's captions are to be in one file.
    """
    root = Path(lake.root)
    for stray in (root / ".scratch").glob("*"):
        os.utime(stray, (0, 0))
    lake.remove_strays()
    files = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    strange = [name for name in files if not _SETTLED.fullmatch(name)]
    assert strange == []
    segments = {name for name in files if name.endswith(".tar")}
    indexes = [name for name in files if name.startswith("media/") and not name.endswith((".tar", "empty.parquet"))]
    named = {(Path(name).parent / row["segment"]).as_posix() for name in indexes for row in _index(lake, name)}
    assert segments == named
    captions = [match for name in files if (match := _SETTLED.fullmatch(name)) and match["rows"]]
    if sealed:
        assert len({Path(match[0]).parent for match in captions}) == len(captions)
        assert all(match["rows"].startswith("sealed-") for match in captions)


def _index(lake: Lake, name: str) -> list[dict[str, Any]]:
    shard = Shard.parse(Path(name).stem)
    assert name == layout.media_index(shard)
    return read_index(lake, shard)
