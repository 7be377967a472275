"""What a run says about a shard and a perspective: the numbers that people look at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caption_assets.captioning.asking import Spent
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.config import Prices
from caption_assets.lake import tables
from caption_assets.lake.heartbeats import LookProgress
from caption_assets.lake.layout import Shard


@dataclass
class LookReport:
    """One perspective on one shard. `total` = there + done + reused + failed, unless the run stopped early."""

    bound: BoundPerspective
    shard: Shard
    total: int
    there: int
    settled_before: int = 0
    """Failures of earlier runs that are not tried again; they count as failed, too."""
    done: int = 0
    reused: int = 0
    failed: int = 0
    failure_kinds: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    smaller: int = 0
    """Captions of pictures that had to be shown smaller than they are stored."""
    spent: Spent = field(default_factory=Spent)
    """Tokens of all replies, usable or not."""
    prices: Prices | None = None
    """What tokens cost, where that is known."""
    restarts: int = 0
    """How often the engine died and was loaded again meanwhile."""
    load_seconds: float = 0.0
    """Of the time between start and end, what loading the model took."""
    started_at: datetime = field(default_factory=tables.now)
    ended_at: datetime = field(default_factory=tables.now)

    @property
    def complete(self) -> bool:
        """Whether every picture has a caption or a recorded failure."""
        return self.total == self.there + self.done + self.reused + self.failed

    @property
    def seconds(self) -> float:
        """From the shard's first look to its last file, the model's loading left out."""
        return max((self.ended_at - self.started_at).total_seconds() - self.load_seconds, 0.0)

    @property
    def rate(self) -> float:
        """Outcomes a second of this run: captions, copies and failures."""
        return self._rate(self.seconds)

    def progress(self, load_seconds: float) -> LookProgress:
        """Where it stands now; `load_seconds`: what loading the model has taken since it began."""
        return LookProgress(
            self.shard.dataset,
            self.shard.key,
            self.bound.name,
            self.bound.fingerprint,
            self.total,
            self.there + self.done + self.reused,
            self.failed,
            dict(self.failure_kinds),
            self._rate((tables.now() - self.started_at).total_seconds() - load_seconds),
        )

    def _rate(self, seconds: float) -> float:
        made = self.done + self.reused + self.failed - self.settled_before
        return made / seconds if seconds > 0 else 0.0

    @property
    def cost(self) -> float | None:
        """What the tokens cost, those of unusable replies included; None where there are no prices."""
        if self.prices is None:
            return None
        spent, prices = self.spent, self.prices
        return (spent.prompt_tokens * prices.prompt + spent.completion_tokens * prices.completion) / 1e6

    def run_row(self, run_id: str, contributor: str, cause: str | None = None) -> dict[str, Any]:
        """The row of the runs table; `cause`: why the run was launched."""
        return {
            "run_id": run_id,
            "step": "captions",
            "dataset": self.shard.dataset,
            "shard": self.shard.key,
            "perspective": self.bound.name,
            "fingerprint": self.bound.fingerprint,
            "model": self.bound.model,
            "done": self.done,
            "failed": self.failed,
            "failure_kinds": json.dumps(self.failure_kinds, sort_keys=True),
            "reused": self.reused,
            "already_there": self.there,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": self.seconds,
            "cost": self.cost,
            "contributor": contributor,
            "cause": cause,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }


@dataclass
class ShardReport:
    """All perspectives of one shard, by name."""

    shard: Shard
    looks: dict[str, LookReport]


@dataclass(frozen=True)
class Progress:
    """Where a run stands: its shards that are begun, and its tokens a second."""

    looks: Sequence[LookProgress]
    token_rate: float

    def __str__(self) -> str:
        shards: dict[str, list[str]] = {}
        for look in self.looks:
            shards.setdefault(look.shard, []).append(f"{look.stage} {look}")
        told = "\n".join(f"{shard}: {'; '.join(lines)}" for shard, lines in shards.items())
        return f"{told}\n{self.token_rate:.0f} tokens/s"
