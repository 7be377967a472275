"""Delivery: what the outbox holds goes to each receiver, in order per dataset, at least once.

Receivers are served side by side, and of one receiver the datasets: an event waits for the earlier ones of its datasets
to the same receiver, and for nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import fsspec.asyn
from aiohttp.abc import AbstractResolver

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.config.callbacks import ON_REQUEST, Callback
from caption_assets.events.event import Event
from caption_assets.events.outbox import Batch, Clock, Outbox
from caption_assets.events.progress import HORIZON, Retry, load_progress, receiver_of
from caption_assets.events.webhooks import Answer, Keys, headers, open_session, post
from caption_assets.lake.store import Lake

BUDGET_SECONDS = 20.0
"""After this long no more requests begin; those under way are waited for."""
_AT_ONCE = 8
_SAVE_SECONDS = 1.0
"""How often progress is stored: what was delivered since is delivered again after a crash."""


@dataclass(frozen=True, eq=False)
class _Pending:
    event: Event
    number: int
    made_at: datetime


def deliver(
    config: PipelineConfig,
    lake: Lake,
    outbox: Outbox,
    clock: Clock,
    *,
    budget_seconds: float,
    resolver: AbstractResolver | None,
) -> list[str]:
    """Deliver what is due to receivers, who are enrolled; returns a line for each that says what happened."""
    couriers = [_Courier(number, each, lake, clock) for number, each in enumerate(config.callbacks)]
    behind = min(each.progress.position for each in couriers)
    batches = outbox.batches(behind) if behind <= outbox.number else []
    for each in couriers:
        each.take(batches, outbox.number)
    asyncio.run_coroutine_threadsafe(_serve(couriers, budget_seconds, resolver), fsspec.asyn.get_loop()).result()
    return [each.summary() for each in couriers]


async def _serve(couriers: Sequence[_Courier], budget_seconds: float, resolver: AbstractResolver | None) -> None:
    deadline = asyncio.get_running_loop().time() + budget_seconds
    await asyncio.gather(*(each.run(deadline, resolver) for each in couriers))


class _Courier:
    """Serves one receiver, once."""

    def __init__(self, number: int, callback: Callback, lake: Lake, clock: Clock) -> None:
        field = f"callbacks.{number}"
        self._label, self._callback, self._lake, self._clock = f"{field} ({callback.host})", callback, lake, clock
        self._keys: Keys | None = None
        self._trouble: str | None = None
        try:
            self._keys = Keys.of(callback, field)
        except ConfigError as error:
            self._trouble = f"nothing is sent: {error}"
        self._receiver = receiver_of(callback)
        self.progress = load_progress(lake, self._receiver)
        self._stored = self.progress.document()
        self._lanes: dict[str, deque[_Pending]] = {}
        self._files: dict[str, int] = {}
        self._next_file = self.progress.position
        self._delivered = self._given_up = 0

    def take(self, batches: Sequence[Batch], last: int) -> None:
        """Queue what is due to it of the outbox's files, of which `last` is the last one."""
        self._next_file = last + 1
        for batch in batches:
            for event in batch.events if batch.number >= self.progress.position else ():
                self._files[event.id] = batch.number
                if event.id not in self.progress.settled and _wanted(self._callback, event):
                    pending = _Pending(event, batch.number, batch.made_at)
                    for lane in event.lanes:
                        self._lanes.setdefault(lane, deque()).append(pending)

    async def run(self, deadline: float, resolver: AbstractResolver | None) -> None:
        """Deliver until nothing is due, or the time is over. Never raises: other receivers are not to suffer."""
        try:
            if self._keys and self._ready(set()):
                async with open_session(self._callback, resolver) as session:
                    await self._deliver(session, self._keys, deadline)
            await self._save()
        except Exception as error:  # its text might tell what nobody should read
            self._trouble = f"stopped by {type(error).__name__}; the next tick goes on"

    def summary(self) -> str:
        """What happened, in a line."""
        waiting = self._waiting()
        parts = [f"{self._delivered} delivered"] if self._delivered or not waiting else []
        if self.progress.gone_at:
            parts.append("it answered 410 Gone and gets nothing more; remove it from the pipeline file")
        elif waiting:
            retries = [self.progress.retries[lane] for lane in self._lanes if lane in self.progress.retries]
            soonest = min(retries, key=lambda retry: retry.next_at, default=None)
            until = f" until {soonest.next_at:%Y-%m-%d %H:%M:%S} UTC: {soonest.problem}" if soonest else ""
            parts.append(f"{len(waiting)} waiting{until}")
        if self._given_up:
            parts.append(f"{self._given_up} given up, for a day was not enough")
        if self._trouble:
            parts.append(self._trouble)
        return f"{self._label}: {', '.join(parts)}"

    async def _deliver(self, session: aiohttp.ClientSession, keys: Keys, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        under_way: dict[asyncio.Task[Answer], _Pending] = {}
        saved_at = loop.time()
        try:
            while True:
                for pending in self._ready(set(under_way.values())) if loop.time() < deadline else ():
                    if len(under_way) < _AT_ONCE:
                        under_way[asyncio.create_task(self._attempt(session, keys, pending.event))] = pending
                if not under_way:
                    return
                done, _ = await asyncio.wait(under_way, timeout=_SAVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._record(under_way.pop(task), task.result())
                if loop.time() - saved_at > _SAVE_SECONDS:
                    await self._save()
                    saved_at = loop.time()
        finally:
            for task in under_way:
                task.cancel()

    async def _attempt(self, session: aiohttp.ClientSession, keys: Keys, event: Event) -> Answer:
        body = event.body()
        return await post(session, self._callback, body, headers(event, body, keys, self._clock()))

    def _ready(self, under_way: set[_Pending]) -> list[_Pending]:
        """The events that are first in all their lanes, and due."""
        if self.progress.gone_at:
            return []
        now = self._clock()
        heads = {queue[0] for queue in self._lanes.values() if queue} - under_way
        return [each for each in heads if all(self._is_first(each, lane, now) for lane in each.event.lanes)]

    def _is_first(self, pending: _Pending, lane: str, now: datetime) -> bool:
        retry = self.progress.retries.get(lane)
        return self._lanes[lane][0] is pending and (retry is None or retry.next_at <= now)

    def _record(self, pending: _Pending, answer: Answer) -> None:
        lanes, now = pending.event.lanes, self._clock()
        if answer.problem is None:
            self._delivered += 1
            self.progress.delivered += 1
            self._settle(pending)
            for lane in lanes:
                self.progress.retries.pop(lane, None)
        elif answer.gone:
            self.progress.gone_at = now
        else:
            for lane in lanes:
                self._give_up(lane, now)
            chance = pending.made_at + HORIZON
            for lane in lanes:
                before = self.progress.retries.get(lane)
                self.progress.retries[lane] = Retry.after(before, now, answer.retry_after, chance, answer.problem)

    def _give_up(self, lane: str, now: datetime) -> None:
        """Drop what waited for a day in a lane that still fails, so that the outbox does not grow without end."""
        for pending in [each for each in self._lanes[lane] if each.made_at + HORIZON <= now]:
            self._given_up += 1
            self.progress.given_up += 1
            self._settle(pending)

    def _settle(self, pending: _Pending) -> None:
        self.progress.settled.add(pending.event.id)
        for lane in pending.event.lanes:
            self._lanes[lane].remove(pending)

    def _waiting(self) -> set[_Pending]:
        return {pending for queue in self._lanes.values() for pending in queue}

    async def _save(self) -> None:
        progress, waiting = self.progress, set() if self.progress.gone_at else self._waiting()
        progress.position = min((each.number for each in waiting), default=self._next_file)
        progress.settled = {each for each in progress.settled if self._files.get(each, 0) >= progress.position}
        document = progress.document()
        if document != self._stored:
            await asyncio.to_thread(progress.save, self._lake, self._receiver)
            self._stored = document


def _wanted(callback: Callback, event: Event) -> bool:
    if event.type not in callback.events if callback.events else event.type in ON_REQUEST:
        return False
    return not callback.datasets or bool(set(callback.datasets).intersection(event.datasets))
