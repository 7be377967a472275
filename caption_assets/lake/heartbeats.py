"""Heartbeats: what is being worked on, seen from outside of the process that does it.

Whoever works on shards keeps one small file under `running/` that says how far it is. It is written every few seconds,
by a thread of its own, removed when the work ends well, and closed with the reason when it does not. A file whose last
beat is long ago is of a worker that died.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Literal

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake

MEDIA = "media"
"""The stage that is no perspective."""
LOST_AFTER_SECONDS = 60.0
"""A worker that has been silent for this long is lost; it is also how far clocks may differ."""
_LOCAL_SECONDS, _REMOTE_SECONDS = 3.0, 10.0
_FORGOTTEN_AFTER_SECONDS = {"running": 86_400.0, "failed": 30 * 86_400.0, "cancelled": 30 * 86_400.0}
_MOST_WAITING = 1_000
"""Shards that a file names of those that are not begun."""
_LONGEST_ERROR = 500
_READERS = 16
_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookProgress:
    """One stage of one shard while it is worked on: its media, or a perspective."""

    dataset: str
    shard: str
    stage: str
    fingerprint: str | None
    total: int
    done: int
    """Pictures that have what they are to have, those from earlier runs included."""
    failed: int
    failure_kinds: Mapping[str, int]
    rate: float
    """Outcomes a second of this run, failures included."""

    @property
    def settled(self) -> int:
        """Pictures that are at their end."""
        return self.done + self.failed

    @property
    def seconds_to_go(self) -> float | None:
        """At the present rate; None where nothing moves."""
        return (self.total - self.settled) / self.rate if self.rate > 0 else None

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.failure_kinds.items()))
        failed = f", {self.failed} failed{f' ({kinds})' if kinds else ''}" if self.failed else ""
        left = self.seconds_to_go
        pace = f", {self.rate:.1f}/s, {left:.0f} s to go" if left is not None else " so far"
        return f"{self.settled}/{self.total} pictures{pace}{failed}"


@dataclass
class Beat:
    """What a file under `running/` says."""

    run_id: str
    step: str
    worker: str
    stages: Sequence[Mapping[str, str | None]]
    """Name and fingerprint of each stage that the worker brings up to date."""
    started: float
    """Seconds since 1970, as all times here."""
    beat: float
    interval: float
    state: Literal["running", "failed", "cancelled"] = "running"
    error: str | None = None
    error_type: str | None = None
    looks: Sequence[LookProgress] = ()
    """Of the shards that are begun and not finished."""
    waiting: Sequence[str] = ()
    """The first of the shards that are not begun."""
    name: str = field(default="", compare=False)
    """Of the file."""

    @property
    def shards(self) -> set[str]:
        """The shards that it is still to finish, as far as it names them."""
        return {look.shard for look in self.looks} | set(self.waiting)

    def is_lost(self, now: float) -> bool:
        """Whether its worker is silent for longer than a living one is."""
        return self.state == "running" and now - self.beat > LOST_AFTER_SECONDS

    def content(self) -> bytes:
        """The file, one line of JSON."""
        document = {"version": _VERSION, **asdict(self)}
        del document["name"]
        return json.dumps(document, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, name: str, content: bytes) -> Beat:
        """Read `content()` back. Raises ValueError for what is none."""
        try:
            document = json.loads(content)
            del document["version"]
            looks = [LookProgress(**look) for look in document.pop("looks")]
            return cls(**document, looks=looks, name=name)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{name} is no heartbeat: {error}") from None


class Heartbeat:
    """Tells how far some work is, while the `with` block lasts. Trouble with telling never disturbs the work.

    Args:
        step: what is done, `media` or the name of an op.
        stages: fingerprint of each stage that is brought up to date (None: it has none).
        shards: what is to be worked on.
        contributor: begins the worker's name, which says nothing of its machine.
        interval: seconds between beats; default: 3 on a local lake, 10 elsewhere.
    """

    def __init__(
        self,
        lake: Lake,
        run_id: str,
        step: str,
        stages: Mapping[str, str | None],
        shards: Iterable[Shard],
        contributor: str,
        *,
        interval: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lake, self._clock = lake, clock
        mark = uuid.uuid4().hex[:6]
        now = clock()
        self._beat = Beat(
            run_id,
            step,
            f"{contributor}-{mark}",
            [{"stage": name, "fingerprint": fingerprint} for name, fingerprint in stages.items()],
            now,
            now,
            interval or (_LOCAL_SECONDS if lake.local else _REMOTE_SECONDS),
        )
        self._path = layout.heartbeat_file(f"{run_id}-{step}-{mark}")
        self._left = dict.fromkeys(shard.key for shard in shards)
        self._all = frozenset(self._left)
        self._looks: Callable[[], Sequence[LookProgress]] = tuple
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)

    def watch(self, looks: Callable[[], Sequence[LookProgress]]) -> None:
        """Say where to look for progress from now on; it is called from another thread."""
        self._looks = looks

    def finished(self, shard: Shard) -> None:
        """A shard is done."""
        self._left.pop(shard.key, None)

    def __enter__(self) -> Heartbeat:
        if self._left:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._thread.is_alive():
            return
        if error is None:
            self.end()
        else:  # a generator is closed early when whoever drives it fails
            self.end("failed" if isinstance(error, Exception | GeneratorExit) else "cancelled", error)

    def end(self, state: Literal["done", "failed", "cancelled"] = "done", error: BaseException | None = None) -> None:
        """Stop. What ended well leaves nothing behind, but what did not says why."""
        self._ended.set()
        self._thread.join()
        if state == "done" or not self._left:
            self._quietly(lambda: self._lake.remove(self._path))
            self._quietly(self._remove_superseded)
            return
        self._beat.state = state
        if error is not None and state == "failed":
            self._beat.error = (str(error) or type(error).__name__)[:_LONGEST_ERROR]
            self._beat.error_type = type(error).__name__
        self._quietly(self._write)

    def _work(self) -> None:
        self._quietly(self._remove_forgotten)
        while True:
            self._quietly(self._write)
            if self._ended.wait(self._beat.interval):
                return

    def _write(self) -> None:
        left = list(self._left)
        self._beat.looks = [look for look in self._looks() if look.shard in self._left]
        begun = {look.shard for look in self._beat.looks}
        self._beat.waiting = [key for key in left if key not in begun][:_MOST_WAITING]
        self._beat.beat = self._clock()
        self._lake.write(self._path, self._beat.content())

    def _remove_superseded(self) -> None:
        """Forget of earlier workers that failed, or died, what is done now."""
        now, mine = self._clock(), {str(stage["stage"]) for stage in self._beat.stages}
        for other in read_beats(self._lake):
            over = other.state != "running" or other.run_id == self._beat.run_id or other.is_lost(now)
            if not over or not {str(stage["stage"]) for stage in other.stages} <= mine:
                continue
            path, before = layout.heartbeat_file(other.name), other.shards
            other.looks = [look for look in other.looks if look.shard not in self._all]
            other.waiting = [key for key in other.waiting if key not in self._all]
            if not other.shards:
                self._lake.remove(path)
            elif other.shards != before:
                self._lake.write(path, other.content())

    def _remove_forgotten(self) -> None:
        for other in read_beats(self._lake):
            if self._clock() - other.beat > _FORGOTTEN_AFTER_SECONDS[other.state]:
                self._lake.remove(layout.heartbeat_file(other.name))

    def _quietly(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a full disk, a store that is away: the work itself will meet it, or not
            _log.debug("heartbeat of %s: %s", self._beat.run_id, error)


def read_beats(lake: Lake) -> list[Beat]:
    """All heartbeats that are there, those of workers that are over included."""
    names = [name.removesuffix(".json") for name in lake.list(layout.RUNNING) if name != layout.NO_HEARTBEAT]

    def read(name: str) -> Beat | None:
        with suppress(FileNotFoundError, ValueError):  # its worker has just ended; or it is somebody else's file
            return Beat.parse(name, lake.read(layout.heartbeat_file(name)))
        return None

    with ThreadPoolExecutor(_READERS) as pool:
        return [beat for beat in pool.map(read, names) if beat]
