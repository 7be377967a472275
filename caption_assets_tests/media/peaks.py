"""How much memory a process held at most while it made the media of big pictures: `python -m … FOLDER SETTINGS`.

Prints as JSON what became of the pictures in the folder's `pictures`, and resident memory in megabytes: the most there
was, and what there was before.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from caption_assets.config import Media
from caption_assets.config.datasets import Web
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import Source
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset
from caption_assets.sources.url_list import UrlListSource
from caption_assets.sources.web import WebFetcher
from caption_assets_tests import resident
from caption_assets_tests.media.world import SHARD


def open_source(folder: Path) -> Source:
    """The folder's pictures, or where it has one, its list of URLs."""
    urls = folder / "urls.txt"
    if not urls.exists():
        return FolderSource(folder / "pictures")
    web = Web(allow_hosts=["127.0.0.1"], per_second=1e6)
    return UrlListSource(str(urls), WebFetcher(web, Ahead(web.at_once, int(web.ahead_mb * 1e6))))


def build(folder: Path, settings: str) -> dict[str, object]:
    """Make the media of the folder's pictures."""
    lake, source = Lake(str(folder / "lake")), open_source(folder)
    plan_dataset(lake, "d", source, 1000)
    before = resident.now()
    build_media(lake, Shard("d", 0), source, Media.model_validate_json(settings), "run")
    rows, failures = read_index(lake, SHARD), read_failures(lake, "media", SHARD)
    return {
        "outcomes": sorted({row.get("kind", "media") for row in rows + failures}),
        "messages": [row["message"] for row in failures],
        "counts": Counter(row.get("kind", "media") for row in rows + failures),
        "peak": resident.most(),
        "before": before,
    }


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]), sys.argv[2])))
