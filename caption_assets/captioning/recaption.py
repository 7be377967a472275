"""What is captioned again today: open work, cut to what policy and limits of the pipeline file allow.

A run does all that a shard has open of a perspective. So a perspective that may not be redone in a shard is left out of
that shard's run altogether, and so are its readers where they would find their inputs missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.open_work import MEDIA, Open, OpenShard
from caption_assets.config.recaption import Policy, Recaption
from caption_assets.lake.layout import Shard

Bound = Mapping[str, BoundPerspective]
_LONGEST_PAUSE = timedelta(days=1)
_NOTHING = Open()


@dataclass(frozen=True)
class Portion:
    """What is to be done to one shard."""

    shard: Shard
    perspectives: tuple[str, ...]
    media: bool
    counts: Mapping[str, int]
    """Pictures by perspective, and `media`."""
    cost: float
    why: str

    @property
    def pictures(self) -> int:
        """How many pictures are looked at."""
        return max(self.counts.values(), default=0)


@dataclass
class Budget:
    """What is left of a day's limits; None is no limit."""

    limit: int | None
    cost_limit: float | None = None
    own_limits: Mapping[str, int] = field(default_factory=dict)
    """Pictures by perspective."""
    pictures: int = 0
    """Used, as is what follows."""
    cost: float = 0.0
    by_perspective: dict[str, int] = field(default_factory=dict)

    def spend(self, counts: Mapping[str, int], pictures: int, cost: float) -> None:
        """Count what was done, or is going to be."""
        self.pictures += pictures
        self.cost += cost
        for name, count in counts.items():
            self.by_perspective[name] = self.by_perspective.get(name, 0) + count

    def refusal(self, portion: Portion) -> str | None:
        """The limit that a portion would break. A shard cannot be cut: the day's first one may be beyond a limit."""
        if not self.pictures:
            return None
        if self.limit is not None and self.pictures + portion.pictures > self.limit:
            return f"limit of {self.limit:,} pictures a day reached"
        if self.cost_limit is not None and self.cost + portion.cost > self.cost_limit:
            return f"limit of {self.cost_limit:,.2f} a day reached"
        return None

    def allows(self, name: str, count: int) -> bool:
        """Whether a perspective's own limit leaves room for a shard."""
        limit, used = self.own_limits.get(name), self.by_perspective.get(name, 0)
        return limit is None or not used or used + count <= limit


@dataclass
class Decision:
    """What is to be done now, and what is not."""

    portions: list[Portion] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    """Pictures by the reason for which they are left."""
    left_alone: int = 0
    """Shards that failed and are given time."""

    def leave(self, reason: str, pictures: int) -> None:
        """Count what is not done."""
        self.refusals[reason] = self.refusals.get(reason, 0) + pictures

    def told(self) -> list[str]:
        """Why not more is done, a line for each reason."""
        lines = [f"{reason}; {pictures:,} left" for reason, pictures in self.refusals.items()]
        if self.left_alone:
            lines.append(f"{self.left_alone} shards failed or were cancelled, and are left alone for a while")
        return lines


@dataclass(frozen=True)
class Tried:
    """Earlier tries of a shard."""

    times: int = 0
    at: datetime | None = None

    def is_due(self, now: datetime, pause: timedelta, failed_at: datetime | None = None) -> bool:
        """Whether a shard may be tried again: pauses double."""
        last = max((each for each in (self.at, failed_at) if each), default=None)
        wait = min(pause * 2 ** min(max(self.times - 1, 0), 20), _LONGEST_PAUSE)
        return last is None or now >= last + wait


def budget(config: Recaption) -> Budget:
    """A day's limits on re-captioning, of which nothing is used."""
    own = {name: limit for name in config.perspectives if (limit := config.limit_of(name)) is not None}
    return Budget(config.pictures_per_day, config.cost_per_day, own)


def decide(portions: Sequence[Portion], left: Budget, decision: Decision) -> None:
    """Take portions, in their order, while the limits allow."""
    for portion in portions:
        if reason := left.refusal(portion):
            decision.leave(reason, portion.pictures)
            continue
        left.spend(portion.counts, portion.pictures, portion.cost)
        decision.portions.append(portion)


def recaptioning(each: OpenShard, bound: Bound, config: Recaption, left: Budget, decision: Decision) -> Portion | None:
    """What policy allows of a shard; None where that is nothing."""
    chosen: dict[str, int] = {}
    for name, perspective in bound.items():
        look, policy = each.looks.get(name, _NOTHING), config.policy_of(name)
        count = look.missing + look.stale
        wanted = bool(count) or any(read in chosen for read in perspective.inputs)
        if not wanted or not _may_be_made(look, policy) or _waits(each, perspective, chosen):
            continue
        if not left.allows(name, count):
            decision.leave(f"limit of {left.own_limits[name]:,} pictures a day of {name} reached", count)
            continue
        chosen[name] = count
    return _portion(each, chosen, media=False) if any(chosen.values()) else None


def repair(each: OpenShard, bound: Bound, config: Recaption) -> Portion | None:
    """What failed in a shard or was left unfinished, with nothing else of it that policy forbids; None: nothing."""
    media = each.looks.get(MEDIA, _NOTHING).repairable
    chosen: dict[str, int] = {}
    for name, perspective in bound.items():
        look = each.looks.get(name, _NOTHING)
        wanted = bool(media or look.repairable) or any(read in chosen for read in perspective.inputs)
        allowed = _may_be_made(look, config.policy_of(name)) or not (look.stale or look.missing) or _is_left_over(look)
        if wanted and allowed and not _waits(each, perspective, chosen):
            chosen[name] = look.repairable
    if not media and not any(chosen.values()):
        return None
    return _portion(each, chosen | ({MEDIA: media} if media else {}), media=bool(media))


def _may_be_made(look: Open, policy: Policy) -> bool:
    """Whether all that a perspective has open may be made."""
    return policy == "all" or (policy == "new_only" and not look.stale)


def _is_left_over(look: Open) -> bool:
    return look.unfinished and not look.stale


def _waits(each: OpenShard, perspective: BoundPerspective, chosen: Mapping[str, int]) -> bool:
    """Whether an input is not there, and will not be."""
    looks = (each.looks.get(read, _NOTHING) for read in perspective.inputs if read not in chosen)
    return any(look.missing or look.stale for look in looks)


def _portion(each: OpenShard, counts: Mapping[str, int], *, media: bool) -> Portion:
    looks = {name: each.looks.get(name, _NOTHING) for name in counts if name != MEDIA}
    why = dict.fromkeys(look.why for look in looks.values() if look.why)
    return Portion(
        each.shard, tuple(looks), media, counts, sum(look.cost or 0.0 for look in looks.values()), "; ".join(why)
    )
