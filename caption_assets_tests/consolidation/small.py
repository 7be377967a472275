"""A lake of small shards, and what must be the same however they are merged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.consolidation.run import Consolidated, consolidate
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards
from caption_assets_tests.assets.running import answer
from caption_assets_tests.support import ScriptedEngine, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]
AT_ONCE = {"older_than_hours": 0, "grace_hours": 0}
_VIEWS = {
    "media": "SELECT media_id, uri, etag, bytes_sha256, member, length, phash, run_id, created_at FROM media",
    "captions": "SELECT * EXCLUDE (shard, output), CAST(output AS VARCHAR) FROM captions",
    "failures": "SELECT stage, media_id, uri, fingerprint, kind, attempts, message, created_at FROM failures",
    "items": "SELECT sum(planned), sum(media), sum(pictures), sum(captions), sum(caption_failures) FROM shards",
    "stale": "SELECT perspective, media_id, reason FROM stale",
    "runs": "SELECT * FROM runs",
    "contributors": "SELECT * FROM contributors",
}


def failing(request: EngineRequest) -> EngineReply:
    """No usable count."""
    return reply("no JSON") if "scene_count" in request.request_id else answer(request)


def make(make_config: MakeConfig, folder: Path, **sections: Any) -> PipelineConfig:
    """A pipeline file over a folder whose shards are full with six items."""
    folder.mkdir(exist_ok=True)
    sections = {"consolidation": AT_ONCE, "datasets": {}} | sections
    datasets: Any = sections["datasets"]
    sections["datasets"] = {"demo": {"kind": "folder", "path": str(folder), "shard_size": 6, **datasets}}
    return make_config(**sections)


def fill(
    config: PipelineConfig, folder: Path, pictures: Path, sizes: tuple[int, ...] = (2, 2, 2), *, captions: bool = True
) -> list[Shard]:
    """Let pictures arrive in small lots; each becomes a shard that is captioned. The first one's counts fail."""
    lake, files = Lake(config.lake), iter(sorted(pictures.glob("scene*"))[len(list(folder.iterdir())) :])
    before = len(planned_shards(lake, "demo"))
    for size in sizes:
        for _ in range(size):
            shutil.copy(next(files), folder)
        plan_dataset(lake, "demo", open_source(config, "demo"), config.datasets["demo"].shard_size)
    shards = ingest(config, lake)[before:]
    if captions:
        caption(config, lake, shards[:1], lent(ScriptedEngine(failing)), run_id="first")
        caption(config, lake, shards[1:], lent(ScriptedEngine(answer)), run_id="second")
    return shards


def shown(config: PipelineConfig) -> dict[str, list[tuple[Any, ...]]]:
    """What the views say, but for the shards' keys."""
    with open_views(config) as views:
        return {name: sorted(views.execute(sql).fetchall(), key=repr) for name, sql in _VIEWS.items()}


def keys(config: PipelineConfig) -> list[str]:
    """The shards that are shown."""
    return [shard.key for shard in planned_shards(Lake(config.lake), "demo")]


def merge(config: PipelineConfig, **options: Any) -> Consolidated:
    """A consolidation by a run of its own."""
    return consolidate(config, Lake(config.lake), "demo", "consolidation", **options)
