"""The section `consolidation` of the pipeline file: when small shards are merged."""

from __future__ import annotations

from pydantic import Field

from caption_assets.config.datasets import Strict


class Consolidation(Strict):
    """Small shards (fewer than half of `shard_size` items) whose work is done become full ones."""

    older_than_hours: float = Field(default=24.0, ge=0)
    """A shard planned later than that is left alone."""
    grace_hours: float = Field(default=1.0, ge=0)
    """For how long the files of merged shards stay, for those who are reading them."""
