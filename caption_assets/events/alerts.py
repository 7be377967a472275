"""Alerts: an incident is raised once when a limit is passed, and resolved once when it is kept again.

Which incidents are open stands in one small file of the lake. It is written before their events go into the outbox, and
again after: an evaluation that dies in between tells the same event again, under the same id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from caption_assets.config import PipelineConfig
from caption_assets.config.alerts import Alerts
from caption_assets.counts.views import StillCounting
from caption_assets.events import conditions
from caption_assets.events.channels import channels
from caption_assets.events.conditions import Condition
from caption_assets.events.event import Event, timestamp
from caption_assets.events.outbox import Clock, Outbox
from caption_assets.lake import layout
from caption_assets.lake.status import KnownRuns
from caption_assets.lake.store import Lake

_VERSION = 1
_LOOK_AGAIN = timedelta(hours=1)
"""After this long failures are counted anew, though no run has ended."""
_COUNTING_SECONDS = 30.0
"""Of a sensor's tick, which Dagster ends after 60."""


@dataclass(frozen=True)
class Incident:
    """A condition while it lasts, and until its end has been told."""

    id: str
    condition: Condition
    raised_at: datetime
    resolved_at: datetime | None = None
    told: int = 0
    """How many of its two events are in the outbox."""

    def events(self) -> list[Event]:
        """Its events so far: that it was raised, that it is resolved."""
        both = [self._event("raised", self.raised_at)]
        return both + ([self._event("resolved", self.resolved_at)] if self.resolved_at else [])

    def _event(self, state: str, at: datetime) -> Event:
        facts = asdict(self.condition)
        alert, dataset = facts.pop("alert"), facts["dataset"]
        resolved = timestamp(at) if state == "resolved" else None
        data = {"incident": self.id, "state": state, **facts}
        data |= {"raised_at": timestamp(self.raised_at), "resolved_at": resolved}
        return Event.of(alert, [self.id, state], at, [dataset] if dataset else [], data)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "id": self.id,
            "condition": asdict(self.condition),
            "raised_at": timestamp(self.raised_at),
            "resolved_at": timestamp(self.resolved_at) if self.resolved_at else None,
            "told": self.told,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Incident:
        """Read `document()` back."""
        resolved = document["resolved_at"]
        return cls(
            document["id"],
            Condition(**document["condition"]),
            datetime.fromisoformat(document["raised_at"]),
            datetime.fromisoformat(resolved) if resolved else None,
            document["told"],
        )


@dataclass
class _State:
    since: dict[str, datetime] = field(default_factory=dict)
    """From when on each dataset's arrivals are watched."""
    incidents: list[Incident] = field(default_factory=list)
    counted: str = ""
    """The state of the lake in which failures were counted."""
    counted_at: datetime | None = None
    failures: list[Condition] = field(default_factory=list)
    """What was found then."""

    def document(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "since": {name: timestamp(moment) for name, moment in self.since.items()},
            "incidents": [each.document() for each in self.incidents],
            "counted": self.counted,
            "counted_at": timestamp(self.counted_at) if self.counted_at else None,
            "failures": [asdict(each) for each in self.failures],
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> _State:
        at = document["counted_at"]
        return cls(
            {name: datetime.fromisoformat(moment) for name, moment in document["since"].items()},
            [Incident.parse(each) for each in document["incidents"]],
            document["counted"],
            datetime.fromisoformat(at) if at else None,
            [Condition(**each) for each in document["failures"]],
        )


@dataclass(frozen=True)
class Evaluation:
    """What a look found: what is wrong now, and when each watched dataset's newest items came."""

    conditions: Sequence[Condition]
    arrived: Mapping[str, datetime | None]
    raised: int = 0
    resolved: int = 0


class AlertWatch:
    """Watches a lake by the limits of its pipeline file.

    Args:
        clock: tells the time.
        tell: receives lines for people.
    """

    def __init__(self, config: PipelineConfig, lake: Lake, clock: Clock, tell: Callable[[str], None]) -> None:
        self._config, self._lake, self._clock, self._tell = config, lake, clock, tell
        self._alerts = config.alerts or Alerts(breaker=False)
        self._stored = self._read()
        self._state = _State.parse(self._stored) if self._stored else _State()

    def look(self, known: KnownRuns, seconds: float = inf) -> Evaluation:
        """What is wrong now. Changes nothing.

        Args:
            seconds: after so long failures are no longer counted: what was found before stands for them.
        """
        now, alerts, state = self._clock(), self._alerts, self._state
        for name in alerts.arrivals:
            state.since.setdefault(name, now)
        arrived = {name: conditions.last_arrival(self._lake, name) for name in alerts.arrivals}
        found = [
            *conditions.late_arrivals(alerts, arrived, state.since, now),
            *self._failures(now, seconds),
            *conditions.tripped_breakers(alerts, self._lake),
            *conditions.old_queue(alerts, known, now),
        ]
        return Evaluation(found, arrived)

    def watch(self, known: KnownRuns) -> Evaluation:
        """Look, and put the events of what has begun or ended since into the outbox, where somebody is told."""
        found, now = self.look(known, _COUNTING_SECONDS), self._clock()
        wrong = {each.key: each for each in found.conditions}
        open_ = {each.condition.key: each for each in self._state.incidents if each.resolved_at is None}
        raised = [
            Incident(_identity(condition, now), condition, now) for key, condition in wrong.items() if key not in open_
        ]
        ended = [replace(each, resolved_at=now) for key, each in open_.items() if key not in wrong]
        kept = [
            replace(each, condition=wrong[each.condition.key]) if each.condition.key in wrong else each
            for each in self._state.incidents
            if each.resolved_at is not None or each.condition.key in wrong
        ]
        self._state.incidents = [*kept, *ended, *raised]
        self._save()
        self._hand_over()
        return replace(found, raised=len(raised), resolved=len(ended))

    def _failures(self, now: datetime, seconds: float) -> list[Condition]:
        """Counting lists the whole lake, so it is done only when something has changed."""
        state = self._state
        if self._alerts.failure_share is None:
            return []
        limits = [self._alerts.failure_share, self._alerts.min_pictures]
        marker = f"{conditions.lake_marker(self._lake)} {limits}"
        if marker != state.counted or state.counted_at is None or now - state.counted_at > _LOOK_AGAIN:
            try:
                totals = conditions.totals_of(self._config, seconds)
            except StillCounting as error:
                self._tell(f"the share of failures is not known yet: {error}")
                return state.failures
            state.failures = list(conditions.too_many_failures(self._alerts, totals))
            state.counted, state.counted_at = marker, now
        return state.failures

    def _hand_over(self) -> None:
        """Put what is untold into the outbox, in order; where nobody is told it counts as told."""
        state = self._state
        untold = sorted(
            (event for each in state.incidents for event in each.events()[each.told :]),
            key=lambda event: (event.occurred_at, event.id),
        )
        if untold and (self._config.callbacks or channels(self._config)):
            outbox = Outbox(self._lake, self._clock, self._tell)
            if not outbox.add(untold):
                return  # the next look does
        state.incidents = [
            replace(each, told=len(each.events())) for each in state.incidents if each.resolved_at is None
        ]
        self._save()

    def _read(self) -> dict[str, Any] | None:
        if not self._lake.exists(layout.ALERTS):
            return None
        try:
            document: dict[str, Any] = json.loads(self._lake.read(layout.ALERTS))
            _State.parse(document)
        except (ValueError, KeyError, TypeError) as error:
            self._tell(f"{self._lake.url(layout.ALERTS)} says nothing of alerts, and is made anew: {error}")
            return None
        return document

    def _save(self) -> None:
        document = self._state.document()
        if document != self._stored:
            self._lake.write(layout.ALERTS, json.dumps(document, indent=1).encode())
            self._stored = document


def _identity(condition: Condition, raised_at: datetime) -> str:
    return hashlib.sha256(f"{condition.key} {timestamp(raised_at)}".encode()).hexdigest()[:32]
