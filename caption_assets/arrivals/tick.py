"""One tick of a watched dataset: what changed, what is new, what may still wait, and what is gone.

Each step is durable before the next one relies on it: items are planned or wait in the lake before a message that told
of them is deleted and before the cursor moves past them. So a tick may die anywhere: the next one sees the same again,
and knows what was planned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.gone import back_again, left_by_uri, left_of_round
from caption_assets.arrivals.queue import Queue, Received
from caption_assets.arrivals.runs import LostError
from caption_assets.arrivals.scan import Scan
from caption_assets.arrivals.waiting import read_waiting, wait_seconds, waited, write_waiting
from caption_assets.config import BucketDataset, FolderDataset, PipelineConfig
from caption_assets.lake.departures import Departed, departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import give_up_taken
from caption_assets.lake.store import Lake
from caption_assets.sources.base import GivesOnce, Item, ListsInPages, Source
from caption_assets.sources.known import Known
from caption_assets.sources.planner import Planner, open_source, plan_rest
from caption_assets.sources.versions import version_of_list

CATCH_UP_SECONDS = 8.0
_READ_AGAIN_SECONDS = 3600.0
"""A list of pictures that has not changed is read again after this long: files that it names may have."""

_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a tick did."""

    cursor: Cursor
    planned: int = 0
    """The number of shards that were ever planned."""
    new_shards: list[Shard] = field(default_factory=list)
    new_items: int = 0
    notes: list[str] = field(default_factory=list)
    """Where things stand, for people."""
    problem: OSError | None = None
    """Why the source could not be listed to the end."""
    marked: bool = False
    """Whether items were marked as gone or back, so that the catalog is to be made anew."""


def tick(config: PipelineConfig, lake: Lake, dataset: str, cursor: Cursor, now: datetime) -> Outcome:
    """Look at a watched dataset once, for a bounded time.

    Args:
        cursor: where the last tick left off; moved on.

    Raises:
        OSError: the lake cannot be used.
    """
    known = Known(lake, dataset)
    if left := known.catch_up(CATCH_UP_SECONDS):
        return Outcome(cursor, known.next, notes=[f"{known.next:,} plans read, {left:,} to go"])
    give_up_taken(lake, dataset)
    settings = config.datasets[dataset]
    source = open_source(config, dataset, settle=True)
    planner = Planner(lake, dataset, known, source, settings.shard_size)
    outcome = Outcome(cursor)
    if isinstance(source, ListsInPages) and isinstance(settings, BucketDataset | FolderDataset):
        _Tick(lake, dataset, settings, source, known, planner, outcome, now).run()
    else:
        _read_list(config, dataset, source, planner, outcome, now)
    known.flush()
    outcome.new_shards, outcome.new_items, outcome.planned = planner.shards, planner.items, known.next
    return outcome


def _read_list(
    config: PipelineConfig, dataset: str, source: Source, planner: Planner, outcome: Outcome, now: datetime
) -> None:
    """Plan what is new in a list of pictures, if the list has changed, or among the messages of a topic."""
    cursor = outcome.cursor
    version = None if isinstance(source, GivesOnce) else version_of_list(config, dataset)
    if version and version == cursor.source and now.timestamp() < cursor.source_at + _READ_AGAIN_SECONDS:
        outcome.notes.append("unchanged")
        return
    try:
        planner.offer_all(source.scan())
    except OSError as error:
        outcome.problem = error
        return
    outcome.notes += plan_rest(planner, source)
    cursor.source, cursor.source_at = version, now.timestamp()


class _Tick:
    """A tick of a folder or bucket."""

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        settings: BucketDataset | FolderDataset,
        source: ListsInPages,
        known: Known,
        planner: Planner,
        outcome: Outcome,
        now: datetime,
    ) -> None:
        self._lake, self._dataset, self._settings, self._source = lake, dataset, settings, source
        self._known, self._planner, self._outcome, self._now = known, planner, outcome, now
        self._cursor = outcome.cursor
        self._waiting = read_waiting(lake, dataset)
        self._noticed = {item.key: at for item, at in self._waiting}
        take, idle = planner.offer_known, settings.scan_seconds
        self._scan = Scan(lake, dataset, source, self._cursor, known, take, now.timestamp(), idle)

    def run(self) -> None:
        """Do it."""
        self._planner.offer([item for item, _ in self._waiting])
        queue = self._queue()
        with ThreadPoolExecutor(1, thread_name_prefix="queue") as pool:  # an empty queue lets one wait
            asked = pool.submit(queue.receive) if queue else None
            ended = self._look()
        told = self._told(asked) if asked else None
        followed = told is not None and self._follow(told)
        self._close(more=not ended and not self._scan.resting)
        if queue and told and followed:
            self._acknowledge(queue, told)
        if ended:
            self._end_round(is_told=told is not None)
        self._scan.store()
        self._outcome.notes += self._where_it_stands()

    def _look(self) -> bool:
        """Do this tick's share of the scan; True at the end of a round."""
        try:
            self._scan.begin()
            self._scan.look_where_it_grows()
            return not self._scan.resting and self._scan.go_on()
        except OSError as error:
            self._outcome.problem = error
            self._scan.give_up()
            return False

    def _queue(self) -> Queue | None:
        if isinstance(self._settings, BucketDataset) and self._settings.notifications:
            return Queue(self._settings.notifications.sqs, self._settings.options)
        return None

    def _told(self, asked: Future[Received]) -> Received | None:
        """What the queue tells; None where it cannot be reached, for there is the scan."""
        try:
            told = asked.result()
        except OSError as error:
            self._warn(f"{error}; the scan goes on")
            return None
        if told.unclear:
            self._warn(f"{told.unclear} messages of the queue could not be understood")
        return told

    def _follow(self, told: Received) -> bool:
        """Plan what the queue told of, and mark what is gone; False where it cannot be looked at."""
        if not told.changes or self._source.keys is None:
            return True
        uris = [change.uri for change in told.changes]
        try:
            found = self._source.keys.look(uris)
        except OSError as error:
            self._outcome.problem = error
            return False
        items = [item for item in found if item is not None]
        self._planner.offer_known(items, self._scan.note(items))
        marked = departed(self._lake, self._dataset)
        away = [uri for uri, item in zip(uris, found, strict=True) if item is None]
        gone = left_by_uri(self._lake, self._known, away, marked)
        back = back_again(self._dataset, self._known, [item.key for item in items if item.key in marked])
        self._mark(gone, back)
        return True

    def _close(self, *, more: bool) -> None:
        """Close a shard that has waited long enough, and write down what goes on waiting.

        Args:
            more: whether the scan has not come to its end, so that a shard that is not full may well be soon.
        """
        today = self._now.astimezone(UTC).date().isoformat()
        if self._cursor.day != today:
            self._cursor.day, self._cursor.small = today, 0
        held = self._held()
        limit = wait_seconds(self._settings.max_wait_seconds, self._cursor.small)
        in_flood = more and bool(self._planner.shards)
        if held and not in_flood and waited(held, self._now, self._cursor.small) >= limit:
            self._planner.close()
            self._cursor.small += 1
        elif held:
            self._outcome.notes.append(f"{len(held):,} new pictures wait up to {limit:.0f} s for others")
        held = self._held()
        if [item for item, _ in held] != [item for item, _ in self._waiting]:
            write_waiting(self._lake, self._dataset, held)

    def _held(self) -> list[tuple[Item, datetime]]:
        return [(item, self._noticed.get(item.key, self._now)) for item in self._planner.held]

    def _end_round(self, *, is_told: bool) -> None:
        if self._scan.round.whole:
            self._mark_what_left()
        self._scan.end(is_told=is_told)

    def _mark_what_left(self) -> None:
        """Mark what a whole round did not see, and what is back."""
        marked, first = departed(self._lake, self._dataset), self._scan.round.first
        try:
            left = left_of_round(self._lake, self._dataset, self._known, self._scan.seen, first, marked)
        except LostError:
            self._warn("what this round saw was lost; the next one tells what is gone")
            return
        self._mark(left.gone, left.back)
        if left.refused:
            self._warn(f"nothing is marked as gone: {left.refused}")

    def _mark(self, gone: Sequence[Departed], back: Sequence[Departed]) -> None:
        if gone or back:
            record(self._lake, self._dataset, gone, back, f"arrivals_{self._dataset}")
            self._outcome.marked = True
            counts = [f"{len(each):,} {what}" for each, what in ((gone, "gone"), (back, "back")) if each]
            self._outcome.notes.append(f"marked as {', '.join(counts)}")

    def _acknowledge(self, queue: Queue, told: Received) -> None:
        try:
            queue.acknowledge(told.receipts)
        except OSError as error:
            self._warn(f"{error}; its messages will come again")

    def _where_it_stands(self) -> list[str]:
        if self._scan.resting:
            seconds = self._cursor.rest_until - self._now.timestamp()
            return [f"the scan rests for {seconds:.0f} s"]
        if self._cursor.round is None:
            return []
        return [f"scan: {self._scan.round.listed:,} of {self._cursor.listed or '?'} listed"]

    def _warn(self, message: str) -> None:
        _log.warning("%s: %s", self._dataset, message)
        self._outcome.notes.append(message)
