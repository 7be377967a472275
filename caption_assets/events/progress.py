"""What one receiver has of the outbox, and when it is tried again: a small file in the lake."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from caption_assets.config.callbacks import Callback
from caption_assets.events.event import timestamp
from caption_assets.lake import layout
from caption_assets.lake.store import Lake

HORIZON = timedelta(days=1)
"""For how long an event is tried."""
_FIRST_WAIT = timedelta(seconds=10)
_LONGEST_WAIT = timedelta(hours=1)


@dataclass
class Retry:
    """A lane that failed."""

    attempts: int
    """That failed since the last one that did not."""
    next_at: datetime
    problem: str

    @classmethod
    def after(cls, before: Retry | None, now: datetime, wait: float, last_chance: datetime, problem: str) -> Retry:
        """The next attempt: twice as late each time, with jitter, no sooner than the receiver asks.

        Args:
            wait: seconds that the receiver asks for.
            last_chance: an attempt is made then, should it be due later.
        """
        attempts = before.attempts + 1 if before else 1
        longest = min(_FIRST_WAIT * 2.0 ** min(attempts - 1, 20), _LONGEST_WAIT)
        next_at = now + max(longest * random.uniform(0.5, 1.0), timedelta(seconds=min(wait, HORIZON.total_seconds())))
        return cls(attempts, min(next_at, last_chance) if last_chance > now else next_at, problem)


@dataclass
class Progress:
    """Where a receiver stands."""

    position: int
    """The first file of the outbox of which it lacks something."""
    settled: set[str] = field(default_factory=set)
    """Events of that file and later ones that it has, or that were given up."""
    retries: dict[str, Retry] = field(default_factory=dict)
    """By lane, those that failed."""
    gone_at: datetime | None = None
    delivered: int = 0
    given_up: int = 0
    since: datetime | None = None
    """When it became one."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Progress:
        """Read `document()` back."""
        return cls(
            document["position"],
            set(document["settled"]),
            {
                lane: Retry(each["attempts"], datetime.fromisoformat(each["next_at"]), each["problem"])
                for lane, each in document["retries"].items()
            },
            datetime.fromisoformat(document["gone_at"]) if document["gone_at"] else None,
            document["delivered"],
            document["given_up"],
            datetime.fromisoformat(document["since"]) if document.get("since") else None,
        )

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "position": self.position,
            "settled": sorted(self.settled),
            "retries": {
                lane: {"attempts": each.attempts, "next_at": timestamp(each.next_at), "problem": each.problem}
                for lane, each in sorted(self.retries.items())
            },
            "gone_at": timestamp(self.gone_at) if self.gone_at else None,
            "delivered": self.delivered,
            "given_up": self.given_up,
            "since": timestamp(self.since) if self.since else None,
        }

    def save(self, lake: Lake, receiver: str) -> None:
        """Put it into the lake."""
        lake.write(layout.receiver_file(receiver), json.dumps(self.document(), indent=1).encode())


def enroll(lake: Lake, receivers: Iterable[str], next_file: int, now: datetime) -> None:
    """Remember receivers that are new: they get what comes from the outbox's next file on."""
    for receiver in receivers:
        path = layout.receiver_file(receiver)
        if not lake.exists(path):
            lake.create(path, json.dumps(Progress(next_file, since=now).document(), indent=1).encode())


def needed_from(lake: Lake, receivers: Iterable[str], number: int) -> int:
    """The first file of the outbox that a receiver lacks; `number`: that of the last file."""
    enrolled = [each for each in receivers if lake.exists(layout.receiver_file(each))]
    return min((load_progress(lake, each).position for each in enrolled), default=number + 1)


def load_progress(lake: Lake, receiver: str) -> Progress:
    """Where an enrolled receiver stands. Raises ValueError for a file that somebody else wrote."""
    path = layout.receiver_file(receiver)
    try:
        return Progress.parse(json.loads(lake.read(path)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{lake.url(path)} says nothing of a receiver ({error}); delete it") from None


def receiver_of(callback: Callback) -> str:
    """The name of a receiver's file; its URL, which may hold a key, cannot be read from it."""
    return hashlib.sha256(callback.url.encode()).hexdigest()[:16]
