"""The `alerts` section of a pipeline file: what somebody is to be told of while it lasts."""

from __future__ import annotations

from pydantic import Field

from caption_assets.config.datasets import Strict


class Arrivals(Strict):
    """What is expected of a dataset."""

    within_hours: float = Field(ge=0.05)
    """Something new is planned at least this often."""


class Alerts(Strict):
    """Limits. Without a limit nothing is watched but the breaker."""

    arrivals: dict[str, Arrivals] = Field(default={})
    """By dataset."""
    failure_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of a dataset's pictures with an outcome that may be failures: of media, and of each perspective..."""
    min_pictures: int = Field(default=20, ge=1)
    """... once so many have one."""
    breaker: bool = True
    """Whether a run that `captions.max_failure_share` stopped is told of, until its shards are done."""
    queue_minutes: float | None = Field(default=None, gt=0)
    """How long a run may wait in the queue."""
