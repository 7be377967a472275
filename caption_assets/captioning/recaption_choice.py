"""Which open shards are repaired or captioned again now, of what the lake has open and nobody is at."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from caption_assets.captioning.loaded import Loaded
from caption_assets.captioning.open_work import Done, OpenShard
from caption_assets.captioning.recaption import (
    Budget,
    Decision,
    Portion,
    Tried,
    budget,
    decide,
    recaptioning,
    repair,
)

_VERSION = 1
_NOTHING = "nothing to do"
_REST = timedelta(minutes=15)


@dataclass
class Memory:
    """What a tick leaves to the next one. Without it a shard that failed is tried a little sooner."""

    forms: str
    """Of which perspectives it speaks: a changed one is tried at once."""
    tried: dict[str, Tried] = field(default_factory=dict)
    state: str = ""
    """The state of things in which nothing was launched; what is open is not looked for again while it lasts."""
    told: str = ""
    until: float = 0.0

    @classmethod
    def read(cls, cursor: str | None, loaded: Loaded) -> Self:
        """From a cursor; empty where there is none, or one that is not ours."""
        forms = loaded.digest[:16]
        try:
            value = json.loads(cursor or "")
            if value["version"] == _VERSION and value["forms"] == forms:
                tried = {
                    str(key): Tried(int(times), datetime.fromtimestamp(at, UTC))
                    for key, (times, at) in value["tried"].items()
                }
                return cls(forms, tried, str(value["state"]), str(value["told"]), float(value["until"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            pass
        return cls(forms)

    def keep(self, state: str, told: str, until: datetime) -> None:
        """Remember a look at what is open."""
        self.state, self.told, self.until = state, told, until.timestamp()

    def write(self) -> str:
        """As a cursor."""
        tried = {key: [each.times, each.at.timestamp()] for key, each in self.tried.items() if each.at}
        seen = {"state": self.state, "told": self.told, "until": self.until}
        return json.dumps({"version": _VERSION, "forms": self.forms, "tried": tried, **seen})

    def try_(self, shards: Collection[str], now: datetime) -> None:
        """Note that shards are tried now."""
        for key in shards:
            self.tried[key] = Tried(self.tried.get(key, Tried()).times + 1, now)


@dataclass(frozen=True)
class UnderWay:
    """A run that waits or works: what it was given to do."""

    run_id: str
    perspectives: Sequence[str]
    pictures: float
    cost: float


@dataclass(frozen=True)
class Standing:
    """How shards stand with who runs things: those that he knows, that are taken, and that failed or were cancelled."""

    known: Sequence[str]
    taken: Collection[str]
    failed_at: Mapping[str, datetime]
    cancelled: Collection[str]


class Choice:
    """What is to be done in one tick."""

    def __init__(
        self, loaded: Loaded, open_: Mapping[str, OpenShard], standing: Standing, memory: Memory, now: datetime
    ) -> None:
        self._bound, self._config = loaded.bound, loaded.config.recaption
        self._open, self._standing, self._memory, self._now = open_, standing, memory, now
        self._pause = timedelta(minutes=self._config.repairs.pause_minutes)
        self._repaired: set[str] = set()
        memory.tried = {key: each for key, each in memory.tried.items() if key in open_}

    def repairs(self, done: Done, under_way: Sequence[UnderWay]) -> Decision:
        """What failed or was left unfinished, within the day's limit."""
        decision, config = Decision(), self._config.repairs
        if not config.enabled:
            return decision
        left = _left(Budget(config.pictures_per_day), done, under_way)
        portions = []
        for each in self._free():
            portion = repair(each, self._bound, self._config)
            if portion and self._due(each, decision, each.tried_at):
                portions.append(portion)
        decide(portions, left, decision)
        self._repaired = {portion.shard.key for portion in decision.portions}
        return decision

    def recaptionings(self, done: Done, under_way: Sequence[UnderWay]) -> Decision:
        """What policy wants again, within the day's limits; none of what `repairs` chose."""
        decision = Decision()
        if self._config.policies == {"off"}:
            return decision
        left = _left(budget(self._config), done, under_way)
        for each in self._free():
            portion = recaptioning(each, self._bound, self._config, left, decision)
            if portion and self._due(each, decision, None):
                decide([portion], left, decision)
        return decision

    def taken(self) -> list[str]:
        """A line where somebody is at open shards."""
        busy = set(self._standing.taken).intersection(self._open)
        return [f"{len(busy)} open shards are in runs that wait or are under way"] if busy else []

    def rest(self, lines: Sequence[str]) -> timedelta:
        """For how long there is no need to look again, unless something happens; less where something waits."""
        return self._pause / 5 if lines else _REST

    def nothing(self) -> str:
        """Why there is nothing to say."""
        left = sum(any(look.missing or look.stale for look in each.looks.values()) for each in self._open.values())
        return f"{_NOTHING}: policy leaves {left} shards with missing or stale rows as they are" if left else _NOTHING

    def _free(self) -> Iterator[OpenShard]:
        taken, known = {*self._standing.taken, *self._repaired}, set(self._standing.known)
        return (each for key, each in self._open.items() if key not in taken and key in known)

    def _due(self, each: OpenShard, decision: Decision, tried_at: datetime | None) -> bool:
        key = each.shard.key
        failed_at = max((at for at in (self._standing.failed_at.get(key), tried_at) if at), default=None)
        due = key not in self._standing.cancelled and self._memory.tried.get(key, Tried()).is_due(
            self._now, self._pause, failed_at
        )
        decision.left_alone += not due
        return due


def alike(portions: Sequence[Portion]) -> list[list[Portion]]:
    """Portions by the work that they are: one run can do what is alike."""
    groups: dict[tuple[bool, tuple[str, ...]], list[Portion]] = defaultdict(list)
    for portion in portions:
        groups[portion.media, portion.perspectives].append(portion)
    return list(groups.values())


def told(verb: str, chunk: Sequence[Portion]) -> str:
    """In a line, what is done to shards with the same work."""
    first, last = chunk[0].shard.key, chunk[-1].shard.key
    what = ", ".join([*(["media"] if chunk[0].media else []), *chunk[0].perspectives])
    why = "; ".join(dict.fromkeys(portion.why for portion in chunk if portion.why))
    shards = first if first == last else f"{first} … {last}"
    pictures = sum(portion.pictures for portion in chunk)
    return f"{verb} {pictures:,} pictures of {shards} with {what}" + (f" ({why})" if why else "")


def _left(left: Budget, done: Done, under_way: Sequence[UnderWay]) -> Budget:
    """What is left today, after what was done and what waiting and running runs have yet to do."""
    left.spend(done.by_perspective, done.pictures, done.cost)
    for run in under_way:
        pictures = int(max(run.pictures - done.by_run.get(run.run_id, 0), 0))
        cost = max(run.cost - done.cost_by_run.get(run.run_id, 0.0), 0.0)
        left.spend(dict.fromkeys(run.perspectives, pictures), pictures, cost)
    return left
