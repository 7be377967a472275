"""The `recaption` section of a pipeline file: what is captioned again by itself, and how much of it a day."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field

from caption_assets.config.datasets import Strict

Policy = Literal["off", "new_only", "all"]
"""`new_only`: rows that are missing, as where a perspective was enabled after its pictures came; `all`: also rows that
are stale, as after a change of a prompt or a model."""


class PerspectiveRecaption(Strict):
    """What differs for one perspective; what is left out is as for all."""

    policy: Policy | None = None
    pictures_per_day: int | None = Field(default=None, ge=1)


class Repairs(Strict):
    """Trying again what failed for a reason that may pass, and finishing what a run left unfinished."""

    enabled: bool = True
    pictures_per_day: int | None = Field(default=10_000, ge=1)
    """null: as many as there are."""
    pause_minutes: float = Field(default=15.0, gt=0)
    """For how long a shard that failed is left alone; twice as long after each further try, a day at most."""


class Recaption(Strict):
    """What the sensor `recaptioning` launches. Days begin at midnight UTC."""

    policy: Policy = "off"
    pictures_per_day: int | None = Field(default=10_000, ge=1)
    """A picture counts once a run, whatever the number of its perspectives; null: as many as there are."""
    cost_per_day: float | None = Field(default=None, gt=0)
    """In the currency of the engines' `prices`; null: whatever it costs."""
    shards_per_run: int = Field(default=10, ge=1, le=50)
    perspectives: dict[str, PerspectiveRecaption] = Field(default={})
    repairs: Repairs = Repairs()

    def policy_of(self, perspective: str) -> Policy:
        """What holds for one perspective."""
        own = self.perspectives.get(perspective)
        return self.policy if own is None or own.policy is None else own.policy

    def limit_of(self, perspective: str) -> int | None:
        """The pictures a day of one perspective, where it has a limit of its own."""
        own = self.perspectives.get(perspective)
        return own.pictures_per_day if own else None

    @property
    def policies(self) -> set[Policy]:
        """All policies that some perspective may have."""
        return {self.policy, *(self.policy_of(name) for name in self.perspectives)}


def check_recaption(value: Recaption, enabled: Collection[str], priced: bool) -> Recaption:
    """Return the section if it fits the rest of the file.

    Args:
        enabled: the perspectives of the file.
        priced: whether an engine has prices.

    Raises:
        ValueError: it names a perspective that is not enabled, or limits a cost that nobody can know.
    """
    if unknown := sorted(set(value.perspectives) - set(enabled)):
        names = ", ".join(repr(name) for name in sorted(enabled))
        raise ValueError(f"perspectives: {unknown[0]!r} is not enabled; enabled are {names}")
    if value.cost_per_day is not None and not priced:
        raise ValueError("cost_per_day: no engine has prices, so no cost is known; give one `prices`, or leave it out")
    return value
