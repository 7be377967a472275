"""A lease: who may deliver events now. Made of create-if-absent alone, which every lake has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from caption_assets.events.event import timestamp
from caption_assets.lake import layout
from caption_assets.lake.store import Lake

LEASE = timedelta(seconds=90)
"""Longer than a delivery takes."""


@contextmanager
def lease(lake: Lake, clock: Callable[[], datetime], folder: str = layout.LEASES) -> Iterator[datetime | None]:
    """Be the only one who delivers; gives None, or until when somebody else is.

    A lease is a file under the next number, created once the last one has expired. So a process that was killed holds
    others up for a while and no longer. Were two to deliver after all, for their clocks differ, receivers would get
    events twice, and no event would be lost. Each `folder` is another lease.
    """
    last = max(_numbers(lake, folder), default=0)
    until, now = _until(lake, folder, last), clock()
    if until is not None and until > now:
        yield until
        return
    mine = last + 1
    if not lake.create(layout.lease_file(folder, mine), _content(now + LEASE)) or max(_numbers(lake, folder)) > mine:
        yield now + LEASE  # somebody was faster
        return
    try:
        lake.remove(layout.lease_file(folder, last))
        yield None
    finally:
        lake.write(layout.lease_file(folder, mine), _content(clock()))


def _numbers(lake: Lake, folder: str) -> list[int]:
    return [int(stem) for name in lake.list(folder) if (stem := name.removesuffix(".json")).isdigit()]


def _until(lake: Lake, folder: str, number: int) -> datetime | None:
    try:
        return datetime.fromisoformat(json.loads(lake.read(layout.lease_file(folder, number)))["expires_at"])
    except FileNotFoundError:  # there was none, or its successor has just removed it
        return None


def _content(expires_at: datetime) -> bytes:
    return json.dumps({"expires_at": timestamp(expires_at)}).encode()
