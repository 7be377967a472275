"""What the processes of the planner's race test do."""

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from caption_assets.lake.store import Lake
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset


def plan(root: str, folder: str, start: Barrier, answers: Any) -> None:
    """Plan a folder at the same time as others; tell what was new."""
    start.wait()
    planned = plan_dataset(Lake(root), "d", FolderSource(Path(folder)), 3)
    answers.put((planned.new_items, [shard.key for shard in planned.new_shards]))
