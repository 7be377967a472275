"""Where this machine keeps what can be made again from the lake."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from caption_assets.lake.store import Lake

CACHE_VARIABLE = "CAPTION_ASSETS_CACHE"


def cache_folder(kind: str, lake: Lake, dataset: str) -> Path:
    """A folder of one dataset of one lake: below `CAPTION_ASSETS_CACHE`, else below the user's cache folder.

    Args:
        kind: what is kept there.
    """
    key = hashlib.sha256(f"{lake.root}\0{dataset}".encode()).hexdigest()[:24]
    for root in _roots():
        folder = root / kind / f"{dataset}-{key}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # a home that cannot be written, as in containers
        if os.access(folder, os.W_OK):
            return folder
    raise PermissionError(f"no folder to keep a cache in; set {CACHE_VARIABLE} to one that can be written")


def _roots() -> list[Path]:
    if chosen := os.environ.get(CACHE_VARIABLE):
        return [Path(chosen)]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "caption-assets"
    return [user, Path(tempfile.gettempdir()) / f"caption-assets-cache-{os.getuid()}"]
