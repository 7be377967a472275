"""Which folders changed since they were looked at: their times tell when files come, go, or get another name.

They do not tell of a file that is written to in its place, and on some network filesystems of nothing: that is left to
the scan of everything.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from caption_assets.sources.base import Page
from caption_assets.sources.folder import FolderSource

_YOUNG = 2_000_000_000
"""Nanoseconds within which two changes may leave the same times."""
_SMALL = 500
"""Pictures of a folder that are all looked at once it changed; of more, those with unknown names."""

Stamp = tuple[int, int]
"""When a folder was changed, in nanoseconds: as it says itself, and as its filesystem says."""
Mask = Callable[[Sequence[str]], Sequence[bool]]


@dataclass(frozen=True)
class _Folder:
    """A folder as it was looked at."""

    stamp: Stamp | None
    """None: something in it is still to be seen."""
    below: Sequence[str]


class FolderChanges:
    """Looks at those folders of a source that changed since the last look.

    Args:
        planned: which URIs are planned.
        file: where to keep how the folders were.
        look: names what is kept; what was kept under another name counts for nothing.
    """

    def __init__(self, source: FolderSource, planned: Mask, file: Path, look: str) -> None:
        self._source, self._planned, self._file, self._look = source, planned, file, look
        self._before = _read(file, look)
        self._now: dict[str, _Folder] = {}

    def pages(self, due: Callable[[], bool]) -> Iterator[Page]:
        """The pictures that may be new.

        Args:
            due: whether to stop; what is left is for the next look.

        Raises:
            OSError: the source itself cannot be read.
        """
        root, waiting = str(self._source.folder), [""]
        while waiting:
            place = waiting.pop()
            path = f"{root}/{place}" if place else root
            before = self._before.get(place)
            try:
                stamp = _stamp(path)
                if before and stamp == before.stamp:
                    now: _Folder | None = before
                elif due():
                    now = before
                else:
                    now = yield from self._look_at(path, stamp, before, due)
            except OSError:
                if not place:
                    raise
                continue  # gone, or the scan of everything tells
            if now:
                self._now[place] = now
                waiting += [f"{place}/{name}" if place else name for name in now.below]

    def store(self) -> None:
        """Keep how the folders are, once what they hold is durable."""
        if self._now and self._now != self._before:
            folders = {place: [each.stamp, *each.below] for place, each in self._now.items()}
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps({"look": self._look, "folders": folders}))
            temporary.replace(self._file)

    def _look_at(
        self, path: str, stamp: Stamp, before: _Folder | None, due: Callable[[], bool]
    ) -> Generator[Page, None, _Folder]:
        """The pictures of a folder; returns how it is."""
        settled = time.time_ns() - max(stamp) > _YOUNG

        def wanted(uris: Sequence[str]) -> Sequence[bool]:
            if before and len(uris) <= _SMALL:
                return [True] * len(uris)
            return [not each for each in self._planned(uris)]

        below, pages = self._source.look(path, wanted)
        for page in pages:
            yield page
            settled = settled and page.whole and not page.unsettled
            if not page.last and due():
                settled = False
                break
        return _Folder(stamp if settled else None, below)


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ctime_ns


def _read(file: Path, look: str) -> dict[str, _Folder]:
    try:
        kept = json.loads(file.read_bytes())
        if kept["look"] != look:
            return {}
        return {
            place: _Folder((stamp[0], stamp[1]) if stamp else None, below)
            for place, (stamp, *below) in kept["folders"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
