"""The scan of a source that is listed in pages: where it grows in every tick, and all of it, round by round."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from itertools import compress, pairwise

from caption_assets.arrivals.cursor import Cursor, Round
from caption_assets.arrivals.runs import SeenRuns
from caption_assets.arrivals.seen import Seen
from caption_assets.arrivals.walking import Share, walk
from caption_assets.lake.store import Lake
from caption_assets.sources.base import Item, ListsInPages, Page, Run
from caption_assets.sources.cache import cache_folder
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.folder_changes import FolderChanges
from caption_assets.sources.identities import Ids, identities, ids_of
from caption_assets.sources.known import Known

SCAN_SECONDS = 5.0
"""What the round may take of a tick in which it finds something new, and of all ticks of a first round."""
ENDS_SECONDS = 3.0
"""What a look at the places that grow may take."""
_GLANCE_SECONDS = 0.2
"""What it may take of a tick in which it finds nothing in a folder."""
_RANGES = 16
_SMALL = 50_000
"""Items of a source that is listed in one piece: each piece costs a request that gives too much."""
_REST_SECONDS = 900.0
"""Rest of a source that tells what comes, after a round that took long and found nothing new."""
_BEHIND = "\U0010ffff"

Take = Callable[[Sequence[Item], Ids], int]
"""Plans items, with their identities; tells how many were new."""


class Scan:
    """One tick's share of the scan.

    Args:
        dataset: whose source it is.
        known: what is planned.
        cursor: where the scan stands; moved on.
        take: what becomes of the items.
        now: in seconds since 1970.
        idle: seconds after the tick's first request, when it stops where nothing is new.
    """

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        source: ListsInPages,
        cursor: Cursor,
        known: Known,
        take: Take,
        now: float,
        idle: float,
    ) -> None:
        self._source, self._cursor, self._take, self._now, self._idle = source, cursor, take, now, idle
        self._started = time.monotonic()
        self.resting = cursor.round is None and now < cursor.rest_until
        self._begins = cursor.round is None and not self.resting
        self.round = cursor.round or Round(uuid.uuid4().hex, [("", "")], known.next)
        if self._begins:
            cursor.round = self.round
        self._runs = SeenRuns(cache_folder("runs", lake, dataset), known) if isinstance(source, FolderSource) else None
        folder, begins = cache_folder("seen", lake, dataset), cursor.round is None or self._begins
        self.seen = Seen(folder, self.round.id, begins=begins, runs=self._runs)
        self._changes: FolderChanges | None = None
        if isinstance(source, FolderSource) and cursor.long:
            cursor.look = cursor.look or uuid.uuid4().hex
            file = cache_folder("folders", lake, dataset) / "folders.json"
            self._changes = FolderChanges(source, known.has_uris, file, cursor.look)

    def note(self, items: Sequence[Item]) -> Ids:
        """Take note that items are there; gives their identities."""
        ids = identities(item.key for item in items)
        self.seen.add(ids)
        return ids

    def begin(self) -> None:
        """Cut a new round into ranges, and find out where keys that sort by arrival would stand. Raises OSError."""
        keys = self._source.keys
        if keys is None or not self._begins:
            return
        if self._cursor.listed > _SMALL or self._cursor.listed == 0:
            splits = keys.splits()
            step = max(1, -(-len(splits) // _RANGES))
            self.round.ranges = list(pairwise(["", *splits[step::step], ""]))
        known = self._cursor.ends
        ends = keys.ends()
        self._cursor.ends = {
            folder: known[folder] if folder in known and known[folder].startswith(end) else end
            for folder, end in ends.items()
        }

    def look_where_it_grows(self) -> None:
        """List the ends of a bucket's folders, or what changed in a folder. Raises OSError."""
        self._look_at_ends()
        if self._changes:
            share = Share(_GLANCE_SECONDS, ENDS_SECONDS)
            for page in self._changes.pages(share.used_up):
                share.news += self._take(page.items, self.note(page.items))
                self.note(page.unsettled)

    def _look_at_ends(self) -> None:
        """List what stands at the end of folders, from some hundred keys before the last one on."""
        folders = list(self._cursor.ends.items())
        steps = [[start] for _, start in folders]
        ranges = [(start, f"{folder}{_BEHIND}" if folder else "") for folder, start in folders]
        keys = self._source.keys
        if keys is None:
            return
        share = Share(ENDS_SECONDS, ENDS_SECONDS)
        for number, page in walk(keys.pages_at_end, ranges, share, side_by_side=True):
            if page is not None:
                self._take(page.items, self.note(page.items))
                steps[number].append(page.after)
        for (folder, _), places in zip(folders, steps, strict=True):
            # the last page may be a few keys: behind [-3] there is a whole one before it
            self._cursor.ends[folder] = places[max(len(places) - 3, 0)]

    def go_on(self) -> bool:
        """List some more of everything; True at the end of a round. Raises OSError."""
        started, is_first = time.monotonic(), self._cursor.listed == 0
        spent = started - self._started
        share = Share(SCAN_SECONDS if is_first else min(self._idle - spent, SCAN_SECONDS), SCAN_SECONDS)
        ranges = list(self.round.ranges)
        left: dict[int, tuple[str, str]] = dict(enumerate(ranges))
        side_by_side = self._source.keys is not None
        for number, page in walk(self._source.pages, ranges, share, side_by_side=side_by_side):
            if page is not None:
                share.news += self._page(page)
                left[number] = page.after, ranges[number][1]
            if page is None or page.last:
                left.pop(number, None)
        self.round.ranges = list(left.values())
        self.round.seconds += time.monotonic() - started
        self.round.new += share.news
        self.round.whole = self.round.whole and self.seen.whole
        return not left

    def store(self) -> None:
        """Keep what the round has seen and how folders were, for the next tick."""
        if self._cursor.round is not None:
            self.seen.store()
        if self._runs:
            self._runs.store()
            if self._cursor.round is None:
                self._runs.tidy(self.round.listed)
        if self._changes:
            self._changes.store()

    def end(self, *, is_told: bool) -> None:
        """The round is over, and told what it could.

        Args:
            is_told: whether the source itself tells what comes.
        """
        self._cursor.round = None
        self._cursor.listed = self.round.listed
        self._cursor.long = self.round.seconds > self._idle
        if is_told and self.round.seconds > SCAN_SECONDS and not self.round.new:
            self._cursor.rest_until = self._now + _REST_SECONDS

    def give_up(self) -> None:
        """The round failed: the next tick begins another one."""
        self._cursor.round = None

    def _page(self, page: Page) -> int:
        """Take a page; how many of its items are new."""
        new = self._take(page.items, self.note(page.items)) if page.items else 0
        new += self._take_runs(page.runs)
        if page.unsettled:
            self.note(page.unsettled)
        self.round.listed += len(page.items) + sum(run.count for run in page.runs)
        self.round.whole = self.round.whole and page.whole
        return new

    def _take_runs(self, runs: Sequence[Run]) -> int:
        """Take runs, whose items are made where they are not known; how many of them are new."""
        if not runs:
            return 0
        known = self._runs.find(runs) if self._runs else [False] * len(runs)
        self.seen.add_runs(ids_of(b"".join(compress((run.digest for run in runs), known))))
        unknown = [(run, run.items()) for run, is_known in zip(runs, known, strict=True) if not is_known]
        if not unknown:
            return 0
        items = [item for _, some in unknown for item in some]
        ids = self.note(items)
        if self._runs:
            start = 0
            for run, some in unknown:
                self._runs.add(run, ids[:, start : start + len(some)])
                start += len(some)
        return self._take(items, ids)
