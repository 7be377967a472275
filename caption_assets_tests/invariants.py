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

_OWN_NAMES = re.compile(r"(part|sealed)-[\w-]+(?=\.parquet)|(?<=\d)\.\d+(?=\.tar)")
"""What differs in the names of files from run to run."""


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


def tidy(lake: Lake, undisturbed: Lake, *, sealed: bool = True) -> None:
    """Assert that a folder lake holds the files that an undisturbed run leaves; ages what killed writers left.

    Args:
        sealed: whether each shard's captions are to be in one file.
    """
    for stray in Path(lake.root, ".scratch").glob("*"):
        os.utime(stray, (0, 0))
    lake.remove_strays()
    assert {_OWN_NAMES.sub("", name) for name in _files(lake)} == {
        _OWN_NAMES.sub("", name) for name in _files(undisturbed)
    }
    segments = {name for name in _files(lake) if name.endswith(".tar")}
    indexes = [name for name in _files(lake) if re.fullmatch(r"media/.*-\d+\.parquet", name)]
    assert segments == {
        (Path(name).parent / row["segment"]).as_posix() for name in indexes for row in _index(lake, name)
    }
    if sealed:
        captions = [Path(name) for name in _files(lake) if name.startswith("captions/")]
        assert len({file.parent for file in captions}) == len(captions)
        assert not [file for file in captions if file.name.startswith("part-")]


def _files(lake: Lake) -> list[str]:
    """The files of a folder lake, but for heartbeats: those of workers that died are forgotten later."""
    root = Path(lake.root)
    names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    return [name for name in names if not name.startswith(f"{layout.RUNNING}/")]


def _index(lake: Lake, name: str) -> list[dict[str, Any]]:
    shard = Shard.parse(Path(name).stem)
    assert name == layout.media_index(shard)
    return read_index(lake, shard)
