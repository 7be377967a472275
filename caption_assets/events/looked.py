"""What the search for events has looked at, as the outbox keeps it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from caption_assets.events.event import timestamp

FIRST_LOOK_BACK = timedelta(days=1)
"""How old an outcome may be that the very first look tells of."""
LOOK_BACK = timedelta(days=7)
"""How long a shard may take, or nobody may look, without that an outcome is missed."""
_JOBS_OVERLAP = timedelta(hours=1)
"""Runs are looked at again for this long, for clocks differ."""


@dataclass(frozen=True)
class Looked:
    """What has been looked at."""

    outbox: str
    """Tells this outbox from another one that once was in the same place."""
    since: datetime
    """What happened before is nobody's business."""
    jobs_until: datetime
    seen: Mapping[str, frozenset[str]]
    """By day, the runs and the files of the `runs` table whose events are in the outbox: hashes of their names."""
    unsure: frozenset[str]
    """Datasets of which something was done since somebody last asked whether they are complete."""
    completed: Mapping[str, str]
    """By dataset, the id of the last `dataset.completed`."""
    perspectives: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints by perspective, as last told."""
    metrics_since: datetime | None = None
    """The last `system.metrics`; None: there was none."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """What runs did since then."""

    @classmethod
    def nothing(cls, now: datetime) -> Looked:
        """Before the first look."""
        since = now - FIRST_LOOK_BACK
        return cls(uuid.uuid4().hex, since, since, {}, frozenset(), {})

    @property
    def jobs_since(self) -> datetime:
        """From when on the runs that changed are to be given to the next look."""
        return self.jobs_until - _JOBS_OVERLAP

    def has(self, name: str) -> bool:
        """Whether a file or run has been looked at."""
        hashed = _hash(name)
        return any(hashed in names for names in self.seen.values())

    def tells_of(self, moment: datetime, now: datetime) -> bool:
        """Whether what happened then is still told."""
        return moment >= max(self.since, now - LOOK_BACK)

    def with_seen(self, new: Iterable[tuple[str, str]], now: datetime) -> dict[str, frozenset[str]]:
        """What was seen and what is new, as pairs of day and name; days that nobody looks at any more are forgotten."""
        days = {day: set(names) for day, names in self.seen.items()}
        for day, name in new:
            days.setdefault(day, set()).add(_hash(name))
        return {day: frozenset(names) for day, names in days.items() if day >= day_of(now - LOOK_BACK)}

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "outbox": self.outbox,
            "since": timestamp(self.since),
            "jobs_until": timestamp(self.jobs_until),
            "seen": {day: sorted(names) for day, names in sorted(self.seen.items())},
            "unsure": sorted(self.unsure),
            "completed": dict(self.completed),
            "perspectives": dict(self.perspectives),
            "metrics_since": timestamp(self.metrics_since) if self.metrics_since else None,
            "totals": dict(self.totals),
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Looked:
        """Read `document()` back."""
        return cls(
            document["outbox"],
            datetime.fromisoformat(document["since"]),
            datetime.fromisoformat(document["jobs_until"]),
            {day: frozenset(names) for day, names in document["seen"].items()},
            frozenset(document["unsure"]),
            document["completed"],
            document.get("perspectives", {}),  # files of earlier releases do not tell
            datetime.fromisoformat(document["metrics_since"]) if document.get("metrics_since") else None,
            document.get("totals", {}),
        )


def day_of(moment: datetime) -> str:
    """The day, in UTC, as folders of the `runs` table are named."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


def _hash(name: str) -> str:
    """64 bits: few enough for a week of thousands of shards in one file, too many for two names to share."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
