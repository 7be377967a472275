"""`recaptioning`: launches repairs of what failed, and captions again what policy wants, within the day's limits.

What is open, and what was done today, is asked of the lake; what waits or runs, of Dagster. The cursor only remembers
how often a shard was tried: with it gone, a shard that failed is tried a little sooner.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from caption_assets import run_tags
from caption_assets.assets.captions import caption_key
from caption_assets.assets.media import MEDIA
from caption_assets.captioning.catalog import open_counts
from caption_assets.captioning.loaded import Loaded, files_digest
from caption_assets.captioning.open_work import Done, OpenShard, find_done, find_open
from caption_assets.captioning.recaption import (
    Budget,
    Decision,
    Portion,
    Tried,
    budget,
    decide,
    recaptioning,
    repair,
)
from caption_assets.counts.views import StillCounting
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, partitions_of
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import ACTIVE, WAITING, Turns, contiguous, run_requests

RECAPTIONING = "recaptioning"
_INTERVAL_SECONDS = 30
_CURSOR_VERSION = 1
_NOTHING = "nothing to do"
_MOST_WAITING = 5
"""Runs of one cause in the queue: what waits there no longer follows a changed policy."""
_DAY = timedelta(days=1)
_REST = timedelta(minutes=15)
_COUNTING_SECONDS = 40.0
"""Of a tick, which Dagster ends after 60."""


def build_recaptioning_sensor(loaded: Loaded) -> dg.SensorDefinition:
    """The sensor.

    Args:
        loaded: what the definitions beside it were built from.
    """

    @dg.sensor(
        name=RECAPTIONING,
        job_name=CAPTION_JOB,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: repairs what failed; captions again what is stale, as `recaption` "
        "of the pipeline file allows.",
    )
    def recaptioning_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        config, now = loaded.config.recaption, tables.now()
        if config.policies == {"off"} and not config.repairs.enabled:
            return dg.SkipReason("recaption.policy is off, and so are repairs")
        if files_digest(loaded.config) != loaded.digest:
            return dg.SkipReason("perspectives or pipeline file have changed: waits until they are loaded")
        memory = _Memory.read(context.cursor, loaded)
        shards = list(context.instance.get_dynamic_partitions(SHARDS))
        runs = _Runs(context.instance, shards, now)
        state = _state(loaded, shards, runs)
        if memory.state == state and now.timestamp() < memory.until:
            return dg.SkipReason(memory.told)
        tick = _Tick(context.instance, loaded, shards, runs, memory, now)
        try:
            requests, lines = tick.run()
        except StillCounting as error:  # nothing is decided before all is known
            return dg.SkipReason(f"looks through the lake: {error}")
        for line in lines:
            context.log.info(line)
        memory.keep("" if requests else state, "; ".join(lines) or tick.nothing(), now + tick.rest(lines))
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=memory.write())
        return dg.SensorResult(skip_reason=memory.told, cursor=memory.write())

    return recaptioning_sensor


@dataclass
class _Memory:
    """The cursor."""

    forms: str
    """Of which perspectives it speaks: a changed one is tried at once."""
    tried: dict[str, Tried] = field(default_factory=dict)
    state: str = ""
    """The state of things in which nothing was launched; what is open is not looked for again while it lasts."""
    told: str = ""
    until: float = 0.0

    @classmethod
    def read(cls, cursor: str | None, loaded: Loaded) -> Self:
        """From a cursor; empty where there is none, or one that is not ours."""
        forms = loaded.digest[:16]
        try:
            value = json.loads(cursor or "")
            if value["version"] == _CURSOR_VERSION and value["forms"] == forms:
                tried = {
                    str(key): Tried(int(times), datetime.fromtimestamp(at, UTC))
                    for key, (times, at) in value["tried"].items()
                }
                return cls(forms, tried, str(value["state"]), str(value["told"]), float(value["until"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            pass
        return cls(forms)

    def keep(self, state: str, told: str, until: datetime) -> None:
        """Remember a look at what is open."""
        self.state, self.told, self.until = state, told, until.timestamp()

    def write(self) -> str:
        """As a cursor."""
        tried = {key: [each.times, each.at.timestamp()] for key, each in self.tried.items() if each.at}
        seen = {"state": self.state, "told": self.told, "until": self.until}
        return json.dumps({"version": _CURSOR_VERSION, "forms": self.forms, "tried": tried, **seen})


class _Runs:
    """What Dagster knows: which shards are taken, and which failed or were cancelled lately."""

    def __init__(self, instance: dg.DagsterInstance, shards: Sequence[str], now: datetime) -> None:
        self._instance = instance
        self.active = instance.get_runs(RunsFilter(statuses=ACTIVE))
        self.taken = {key for run in self.active for key in partitions_of(run, lambda: shards)}
        self.failed_at: dict[str, datetime] = {}
        self.cancelled: set[str] = set()
        ended = RunsFilter(statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED], updated_after=now - _DAY)
        for record in instance.get_run_records(ended, limit=1000, order_by="update_timestamp"):
            run, at = record.dagster_run, record.update_timestamp.replace(tzinfo=UTC)
            for key in partitions_of(run, lambda: shards):
                self.failed_at[key] = max(at, self.failed_at.get(key, at))
                if run.status is DagsterRunStatus.CANCELED:
                    self.cancelled.add(key)

    def of(self, cause: Cause) -> list[dg.DagsterRun]:
        """Those of a cause that wait or run."""
        return [run for run in self.active if run.tags.get(run_tags.CAUSE) == cause.label]

    def today(self, cause: Cause, midnight: datetime) -> list[str]:
        """Ids of a cause's runs that were not finished before today."""
        mine = RunsFilter(tags={run_tags.CAUSE: cause.label}, updated_after=midnight)
        return [run.run_id for run in self._instance.get_runs(mine)]


def _state(loaded: Loaded, shards: Sequence[str], runs: _Runs) -> str:
    """What changes whenever a run begins or ends, finishes a shard, or a shard is registered; cheap to have."""
    lake = Lake(loaded.config.lake)
    days = [day for day in lake.list(layout.RUNS) if day != "_"][-2:]
    done = [f"{day}={len(lake.list(f'{layout.RUNS}/{day}'))}" for day in days]
    active = hashlib.sha256(" ".join(sorted(run.run_id for run in runs.active)).encode()).hexdigest()[:16]
    return " ".join([str(len(shards)), active, *done])


class _Tick:
    """One evaluation."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        loaded: Loaded,
        shards: Sequence[str],
        runs: _Runs,
        memory: _Memory,
        now: datetime,
    ) -> None:
        self._instance, self._loaded, self._memory, self._now = instance, loaded, memory, now
        self._config = loaded.config.recaption
        self._pause = timedelta(minutes=self._config.repairs.pause_minutes)
        self._shards = shards
        self._runs = runs
        self._open: dict[str, OpenShard] = {}
        self._repaired: set[str] = set()

    def run(self) -> tuple[list[dg.RunRequest], list[str]]:
        """The runs to launch, and what is to be said."""
        midnight = self._now.replace(hour=0, minute=0, second=0, microsecond=0)
        with open_counts(self._loaded.config, self._loaded.bound, seconds=_COUNTING_SECONDS) as views:
            self._open = find_open(views, self._loaded.config, self._loaded.bound, self._now - self._pause)
            done = {
                cause: find_done(views, cause.label, midnight, self._runs.today(cause, midnight))
                for cause in (Cause.REPAIR, Cause.RECAPTIONING)
            }
        self._memory.tried = {key: each for key, each in self._memory.tried.items() if key in self._open}
        requests: list[dg.RunRequest] = []
        lines: list[str] = []
        for cause, choose in ((Cause.REPAIR, self._repairs), (Cause.RECAPTIONING, self._recaptionings)):
            decision = choose(done[cause])
            more, told = self._launch(cause, decision.portions)
            requests += more
            lines += [*told, *decision.told()]
        if busy := self._runs.taken.intersection(self._open):
            lines.append(f"{len(busy)} open shards are in runs that wait or are under way")
        return requests, lines

    def rest(self, lines: Sequence[str]) -> timedelta:
        """For how long there is no need to look again, unless something happens; less where something waits."""
        return self._pause / 5 if lines else _REST

    def nothing(self) -> str:
        """Why there is nothing to say."""
        left = sum(any(look.missing or look.stale for look in each.looks.values()) for each in self._open.values())
        return f"{_NOTHING}: policy leaves {left} shards with missing or stale rows as they are" if left else _NOTHING

    def _repairs(self, done: Done) -> Decision:
        decision, config = Decision(), self._config.repairs
        if not config.enabled:
            return decision
        left = self._left(Budget(config.pictures_per_day), Cause.REPAIR, done)
        portions = []
        for each in self._free():
            portion = repair(each, self._loaded.bound, self._config)
            if portion and self._due(each, decision, each.tried_at):
                portions.append(portion)
        decide(portions, left, decision)
        self._repaired = {portion.shard.key for portion in decision.portions}
        return decision

    def _recaptionings(self, done: Done) -> Decision:
        decision = Decision()
        if self._config.policies == {"off"}:
            return decision
        left = self._left(budget(self._config), Cause.RECAPTIONING, done)
        for each in self._free():
            portion = recaptioning(each, self._loaded.bound, self._config, left, decision)
            if portion and self._due(each, decision, None):
                decide([portion], left, decision)
        return decision

    def _free(self) -> Iterator[OpenShard]:
        taken, known = self._runs.taken | self._repaired, set(self._shards)
        return (each for key, each in self._open.items() if key not in taken and key in known)

    def _due(self, each: OpenShard, decision: Decision, tried_at: datetime | None) -> bool:
        key = each.shard.key
        failed_at = max((at for at in (self._runs.failed_at.get(key), tried_at) if at), default=None)
        due = key not in self._runs.cancelled and self._memory.tried.get(key, Tried()).is_due(
            self._now, self._pause, failed_at
        )
        decision.left_alone += not due
        return due

    def _left(self, left: Budget, cause: Cause, done: Done) -> Budget:
        """What is left today, after what was done and what waiting and running runs have yet to do."""
        left.spend(done.by_perspective, done.pictures, done.cost)
        for run in self._runs.of(cause):
            pictures = max(_number(run.tags, run_tags.PICTURES) - done.by_run.get(run.run_id, 0), 0)
            cost = max(_number(run.tags, run_tags.COST) - done.cost_by_run.get(run.run_id, 0.0), 0.0)
            names = [key.path[-1] for key in run.asset_selection or ()]
            left.spend(dict.fromkeys(names, int(pictures)), int(pictures), cost)
        return left

    def _launch(self, cause: Cause, portions: Sequence[Portion]) -> tuple[list[dg.RunRequest], list[str]]:
        """Requests for as many portions as the queue is to hold."""
        room = _MOST_WAITING - sum(run.status in WAITING for run in self._runs.of(cause))
        turns = Turns(self._instance, cause)
        requests: list[dg.RunRequest] = []
        lines: list[str] = []
        for chunk in self._chunks(portions):
            if len(requests) >= room:
                rest = sum(portion.pictures for portion in portions) - sum(_pictures(each) for each in requests)
                lines.append(f"{_MOST_WAITING} runs wait already; {rest:,} pictures are for later")
                break
            requests += self._request(cause, chunk, turns)
            lines.append(_told(cause, chunk))
        return requests, lines

    def _chunks(self, portions: Sequence[Portion]) -> Iterator[list[Portion]]:
        """Portions that one run can take: the same work on a range of shards."""
        alike: dict[tuple[bool, tuple[str, ...]], dict[str, Portion]] = defaultdict(dict)
        for portion in portions:
            alike[portion.media, portion.perspectives][portion.shard.key] = portion
        for group in alike.values():
            shards = [portion.shard for portion in group.values()]
            for chunk in contiguous(shards, self._shards, self._config.shards_per_run):
                yield [group[shard.key] for shard in chunk]

    def _request(self, cause: Cause, chunk: Sequence[Portion], turns: Turns) -> list[dg.RunRequest]:
        for portion in chunk:
            before = self._memory.tried.get(portion.shard.key, Tried())
            self._memory.tried[portion.shard.key] = Tried(before.times + 1, self._now)
        media = [MEDIA] if chunk[0].media else []
        cost = sum(portion.cost for portion in chunk)
        tags = {run_tags.PICTURES: str(sum(portion.pictures for portion in chunk))}
        return run_requests(
            self._instance,
            cause,
            [portion.shard for portion in chunk],
            self._shards,
            tags | ({run_tags.COST: f"{cost:.6f}"} if cost else {}),
            run_key=False,
            assets=[*media, *(caption_key(name) for name in chunk[0].perspectives)],
            shards_per_run=self._config.shards_per_run,
            turns=turns,
        )


def _told(cause: Cause, chunk: Sequence[Portion]) -> str:
    first, last = chunk[0].shard.key, chunk[-1].shard.key
    what = ", ".join([*(["media"] if chunk[0].media else []), *chunk[0].perspectives])
    why = "; ".join(dict.fromkeys(portion.why for portion in chunk if portion.why))
    verb = "repairs" if cause is Cause.REPAIR else "captions again"
    shards = first if first == last else f"{first} … {last}"
    pictures = sum(portion.pictures for portion in chunk)
    return f"{verb} {pictures:,} pictures of {shards} with {what}" + (f" ({why})" if why else "")


def _pictures(request: dg.RunRequest) -> int:
    return int(_number(request.tags, run_tags.PICTURES))


def _number(tags: Mapping[str, str], name: str) -> float:
    try:
        return float(tags.get(name, "0"))
    except ValueError:  # somebody changed it by hand
        return 0.0
