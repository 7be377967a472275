"""Consolidations in processes of their own, to be killed."""

from __future__ import annotations

import os

from caption_assets.captioning import binding as binding  # imported once, by the server that processes are forked from
from caption_assets.config import LAKE_VARIABLE, load_config
from caption_assets.consolidation.run import consolidate
from caption_assets.lake.store import Lake


def consolidate_once(root: str, pipeline: str) -> None:
    """What the consolidation job does with the dataset `demo` of a pipeline file, on a lake."""
    os.environ[LAKE_VARIABLE] = root
    lake = Lake(root)
    lake.remove_strays()
    consolidate(load_config(pipeline), lake, "demo", f"run-{os.getpid()}")
