"""Whether a list of pictures has changed, without reading it."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

import fsspec

from caption_assets.config import HuggingFaceDataset, PipelineConfig
from caption_assets.sources.folder_files import file_etag
from caption_assets.sources.stores import version


def version_of_list(config: PipelineConfig, name: str) -> str | None:
    """What tells a dataset's files, or the hub's revision of it, from later ones; None: it cannot be told.

    Args:
        name: of a dataset that is no folder and no bucket.
    """
    dataset, place = config.datasets[name], config.dataset_place(name)
    try:
        if isinstance(dataset, HuggingFaceDataset) and not dataset.local:
            return _of_hub(dataset.path, dataset.revision)
        if "://" in place:
            return _of_url(place, getattr(dataset, "options", {}))
        return _of_path(place)
    except Exception:  # any filesystem's and the hub's own: reading the list tells what is wrong
        return None


def _of_path(place: str) -> str | None:
    """Of a file, a folder's files, or all that a pattern matches."""
    found = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
    files: list[str] = []
    for path in found:
        files += sorted(glob.glob(f"{glob.escape(path)}/**", recursive=True)) if os.path.isdir(path) else [path]
    return ";".join(f"{path}={file_etag(os.stat(path))}" for path in files) or None


def _of_url(place: str, options: Mapping[str, Any]) -> str | None:
    fs, path = fsspec.core.url_to_fs(place, use_listings_cache=False, skip_instance_cache=True, **options)
    infos = fs.glob(path, detail=True) if glob.has_magic(path) else {path: fs.info(path)}
    told = {name: version(info) for name, info in sorted(infos.items())}
    return ";".join(f"{name}={each}" for name, each in told.items()) if told and all(told.values()) else None


def _of_hub(name: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name, revision=revision, timeout=10).sha
