"""The outbox: events found in the lake and among the runs, in files that are never changed.

A file holds the events that one look found and, with them, what has been looked at by then. It is made by
create-if-absent under the next number: so what is looked at and what was found are one write, and of two that look at
once one has to look again. Numbers give the order of events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import pyarrow as pa

from caption_assets.config import PipelineConfig
from caption_assets.events.completion import completion
from caption_assets.events.event import Event, timestamp
from caption_assets.events.jobs import BEGINNINGS, JobOutcome
from caption_assets.events.looked import LOOK_BACK, Looked, day_of
from caption_assets.events.news import find_news, totals_with
from caption_assets.events.shards import shard_event
from caption_assets.lake import layout
from caption_assets.lake.store import Lake

Clock = Callable[[], datetime]

_READERS = 16
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_VERSION = 1


@dataclass(frozen=True)
class Batch:
    """The events of one file."""

    number: int
    made_at: datetime
    events: tuple[Event, ...]


class Outbox:
    """The outbox of a lake.

    Args:
        clock: tells the time.
        tell: receives lines for people.
    """

    def __init__(self, lake: Lake, clock: Clock, tell: Callable[[str], None]) -> None:
        self._lake, self._clock, self._tell = lake, clock, tell
        self._number, self._looked = self._read()

    @property
    def number(self) -> int:
        """The number of the last file; 0 before the first."""
        return self._number

    @property
    def looked(self) -> Looked:
        """What has been looked at by then."""
        return self._looked

    def batches(self, first: int) -> list[Batch]:
        """The files from a number on, oldest first."""
        numbers = [number for number in _numbers(self._lake) if number >= first]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(lambda number: _batch(self._lake.root, self._looked.outbox, number), numbers))

    def collect(self, config: PipelineConfig, outcomes: Sequence[JobOutcome]) -> int:
        """Look for what is new, and put its events into the outbox; returns how many there were.

        Args:
            outcomes: the runs that ended (and what else is asked of jobs), all that changed since `looked.jobs_since`.
                They are to be read before this is called: then the files of their shards are there to be found, and
                come first.
        """
        found = self._collect_shards_and_jobs(outcomes)
        found += sum(self._complete(config, dataset) for dataset in sorted(self._looked.unsure))
        events, looked = find_news(config, self._lake, self._looked, self._number, self._clock())
        return found + (self._append(events, looked) if events else 0)

    def add(self, events: Sequence[Event]) -> bool:
        """Put events into the outbox that this look did not find; False when the first look is still to come."""
        while self._number:
            if self._append(events, self._looked):
                return True
        return False

    def prune(self, before: int) -> None:
        """Delete the files under a number; the last one stays, for it says what has been looked at."""
        for number in _numbers(self._lake)[:-1]:
            if number < before:
                self._lake.remove(layout.outbox_file(number))

    def _read(self) -> tuple[int, Looked]:
        numbers = _numbers(self._lake)
        if not numbers:
            return 0, Looked.nothing(self._clock())
        return numbers[-1], Looked.parse(json.loads(self._lake.read(layout.outbox_file(numbers[-1])))["looked"])

    def _collect_shards_and_jobs(self, outcomes: Sequence[JobOutcome]) -> int:
        now, looked = self._clock(), self._looked
        jobs = [each for each in outcomes if not looked.has(each.key)]
        files = self._new_files(now)
        found = self._shard_events([path for _, path in files])
        if not found and not jobs and self._number:  # the first look is to be remembered whatever it finds
            return 0
        shards = [event for event in found.values() if event and looked.tells_of(event.occurred_at, now)]
        ended = [_after_its_shards(each, shards) for each in jobs if looked.tells_of(each.ended_at, now)]
        events = sorted([*shards, *ended], key=_order)
        seen = [(day, path) for day, path in files if path in found] + [(day_of(now), each.key) for each in jobs]
        after = replace(
            looked,
            seen=looked.with_seen(seen, now),
            jobs_until=max([looked.jobs_until, *(min(each.ended_at, now) for each in jobs)]),
            unsure=looked.unsure.union(*(event.datasets for event in events if event.type not in BEGINNINGS)),
            totals=totals_with(looked.totals, shards),
        )
        return self._append(events, after)

    def _new_files(self, now: datetime) -> list[tuple[str, str]]:
        """Day and path of the files of the `runs` table that were not looked at."""
        first = day_of(now - LOOK_BACK)
        days = [day for day in self._lake.list(layout.RUNS) if _DAY.fullmatch(day) and day >= first]
        paths = [
            (day, f"{layout.RUNS}/{day}/{name}")
            for day in days
            for name in self._lake.list(f"{layout.RUNS}/{day}")
            if name.endswith(".parquet")
        ]
        return [(day, path) for day, path in paths if not self._looked.has(path)]

    def _shard_events(self, paths: Sequence[str]) -> dict[str, Event | None]:
        """The event of each file; a file that went away meanwhile is left out."""

        def read(path: str) -> tuple[str, Event | None] | None:
            try:
                return path, shard_event(self._lake, path)
            except FileNotFoundError:
                return None
            except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
                self._tell(f"{path} is no file of the runs table, and is left alone: {error}")
                return path, None

        with ThreadPoolExecutor(_READERS) as pool:
            return dict(each for each in pool.map(read, paths) if each)

    def _complete(self, config: PipelineConfig, dataset: str) -> int:
        """Ask once whether a dataset is complete. It is asked again later when there is no answer."""
        try:
            event = completion(config, self._lake, dataset, self._clock()) if dataset in config.datasets else None
        except Exception as error:  # whatever ails this dataset's files, other events must be told
            self._tell(f"whether {dataset} is complete cannot be told: {type(error).__name__}: {error}")
            return 0
        told = self._collect_shards_and_jobs([]) if event else 0  # what completed it may be done since the last look
        looked = replace(self._looked, unsure=self._looked.unsure - {dataset})
        if event is None or looked.completed.get(dataset) == event.id:
            return told + self._append([], looked)
        return told + self._append([event], replace(looked, completed={**looked.completed, dataset: event.id}))

    def _append(self, events: Sequence[Event], looked: Looked) -> int:
        """Make the next file; returns the number of its events: none when somebody else made it, whose look counts."""
        document = {
            "version": _VERSION,
            "made_at": timestamp(self._clock()),
            "looked": looked.document(),
            "events": [event.document() for event in events],
        }
        content = json.dumps(document, ensure_ascii=False).encode()
        if not self._lake.create(layout.outbox_file(self._number + 1), content):
            self._number, self._looked = self._read()
            return 0
        self._number, self._looked = self._number + 1, looked
        return len(events)


@lru_cache(maxsize=4096)
def _batch(root: str, outbox: str, number: int) -> Batch:
    """A file never changes: while a receiver is away, ticks would read the same ones again and again."""
    del outbox  # a lake made anew in the same place has other files under the same numbers
    document = json.loads(Lake(root).read(layout.outbox_file(number)))
    events = tuple(Event.parse(each) for each in document["events"])
    return Batch(number, datetime.fromisoformat(document["made_at"]), events)


def _numbers(lake: Lake) -> list[int]:
    """The files that are there, oldest first."""
    return sorted(int(stem) for name in lake.list(layout.OUTBOX) if (stem := name.removesuffix(".json")).isdigit())


def _after_its_shards(outcome: JobOutcome, shards: Sequence[Event]) -> Event:
    if not outcome.is_end:
        return outcome.event(outcome.ended_at)
    own = (event.occurred_at for event in shards if event.data["run_id"] == outcome.run_id)
    return outcome.event(max([outcome.ended_at, *own]))


def _order(event: Event) -> tuple[datetime, int, str, str]:
    """By time; a job begins before its shards, and ends after them."""
    place = -1 if event.type in BEGINNINGS else int(event.type.startswith("job."))
    return event.occurred_at, place, event.type, event.id
