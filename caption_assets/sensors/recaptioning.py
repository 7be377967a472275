"""`recaptioning`: launches repairs of what failed, and captions again what policy wants, within the day's limits.

What is open, and what was done today, is asked of the lake; what waits or runs, of Dagster. The cursor only remembers
how often a shard was tried: with it gone, a shard that failed is tried a little sooner.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from caption_assets import run_tags
from caption_assets.assets.captions import caption_key
from caption_assets.assets.media import MEDIA
from caption_assets.captioning.catalog import open_counts
from caption_assets.captioning.loaded import Loaded, files_digest
from caption_assets.captioning.open_work import Done, find_done, find_open
from caption_assets.captioning.recaption import Portion
from caption_assets.captioning.recaption_choice import Choice, Memory, Standing, UnderWay, alike, told
from caption_assets.counts.views import StillCounting
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, partitions_of
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import ACTIVE, WAITING, Turns, contiguous, run_requests

RECAPTIONING = "recaptioning"
_INTERVAL_SECONDS = 30
_MOST_WAITING = 5
"""Runs of one cause in the queue: what waits there no longer follows a changed policy."""
_DAY = timedelta(days=1)
_COUNTING_SECONDS = 40.0
"""Of a tick, which Dagster ends after 60."""
_VERBS = {Cause.REPAIR: "repairs", Cause.RECAPTIONING: "captions again"}


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
        description=f"Every {_INTERVAL_SECONDS} s: repairs what failed; captions again what is stale, as the "
        "pipeline file allows.",
    )
    def recaptioning_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        config, now = loaded.config.recaption, tables.now()
        if config.policies == {"off"} and not config.repairs.enabled:
            return dg.SkipReason("recaption.policy is off, and so are repairs")
        if files_digest(loaded.config) != loaded.digest:
            return dg.SkipReason("perspectives or pipeline file have changed: waits until they are loaded")
        memory = Memory.read(context.cursor, loaded)
        shards = list(context.instance.get_dynamic_partitions(SHARDS))
        runs = _Runs(context.instance, shards, now)
        state = _state(loaded, shards, runs)
        if memory.state == state and now.timestamp() < memory.until:
            return dg.SkipReason(memory.told)
        try:
            choice, done = _look(loaded, shards, runs, memory, now)
        except StillCounting as error:  # nothing is decided before all is known
            return dg.SkipReason(f"looks through the lake: {error}")
        launch = _Launch(context.instance, shards, config.shards_per_run)
        for cause, choose in ((Cause.REPAIR, choice.repairs), (Cause.RECAPTIONING, choice.recaptionings)):
            decision = choose(done[cause], runs.under_way(cause))
            memory.try_(launch.portions(cause, decision.portions, runs.waiting(cause)), now)
            launch.lines += decision.told()
        requests, lines = launch.requests, [*launch.lines, *choice.taken()]
        for line in lines:
            context.log.info(line)
        memory.keep("" if requests else state, "; ".join(lines) or choice.nothing(), now + choice.rest(lines))
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=memory.write())
        return dg.SensorResult(skip_reason=memory.told, cursor=memory.write())

    return recaptioning_sensor


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

    def under_way(self, cause: Cause) -> list[UnderWay]:
        """Those of a cause that wait or run."""
        return [
            UnderWay(
                run.run_id,
                [key.path[-1] for key in run.asset_selection or ()],
                _number(run.tags, run_tags.PICTURES),
                _number(run.tags, run_tags.COST),
            )
            for run in self._of(cause)
        ]

    def waiting(self, cause: Cause) -> int:
        """How many of a cause wait."""
        return sum(run.status in WAITING for run in self._of(cause))

    def today(self, cause: Cause, midnight: datetime) -> list[str]:
        """Ids of a cause's runs that were not finished before today."""
        mine = RunsFilter(tags={run_tags.CAUSE: cause.label}, updated_after=midnight)
        return [run.run_id for run in self._instance.get_runs(mine)]

    def _of(self, cause: Cause) -> list[dg.DagsterRun]:
        return [run for run in self.active if run.tags.get(run_tags.CAUSE) == cause.label]


def _state(loaded: Loaded, shards: Sequence[str], runs: _Runs) -> str:
    """What changes whenever a run begins or ends, finishes a shard, or a shard is registered; cheap to have."""
    lake = Lake(loaded.config.lake)
    days = [day for day in lake.list(layout.RUNS) if day != "_"][-2:]
    done = [f"{day}={len(lake.list(f'{layout.RUNS}/{day}'))}" for day in days]
    active = hashlib.sha256(" ".join(sorted(run.run_id for run in runs.active)).encode()).hexdigest()[:16]
    return " ".join([str(len(shards)), active, *done])


def _look(
    loaded: Loaded, shards: Sequence[str], runs: _Runs, memory: Memory, now: datetime
) -> tuple[Choice, dict[Cause, Done]]:
    """What may be chosen from, and what was done today by cause."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    pause = timedelta(minutes=loaded.config.recaption.repairs.pause_minutes)
    with open_counts(loaded.config, loaded.bound, seconds=_COUNTING_SECONDS) as views:
        open_ = find_open(views, loaded.config, loaded.bound, now - pause)
        done = {
            cause: find_done(views, cause.label, midnight, runs.today(cause, midnight))
            for cause in (Cause.REPAIR, Cause.RECAPTIONING)
        }
    standing = Standing(shards, runs.taken, runs.failed_at, runs.cancelled)
    return Choice(loaded, open_, standing, memory, now), done


class _Launch:
    """Makes requests of what was chosen, as many as the queue is to hold."""

    def __init__(self, instance: dg.DagsterInstance, shards: Sequence[str], shards_per_run: int) -> None:
        self._instance, self._shards, self._most = instance, shards, shards_per_run
        self.requests: list[dg.RunRequest] = []
        self.lines: list[str] = []

    def portions(self, cause: Cause, portions: Sequence[Portion], waiting: int) -> list[str]:
        """Launch portions; returns the shards that are launched. `waiting`: how many runs of the cause wait already."""
        turns, launched = Turns(self._instance, cause), list[str]()
        left, requests = sum(portion.pictures for portion in portions), 0
        for chunk in self._chunks(portions):
            if requests >= _MOST_WAITING - waiting:
                self.lines.append(f"{_MOST_WAITING} runs wait already; {left:,} pictures are for later")
                break
            made = self._request(cause, chunk, turns)
            self.requests += made
            requests += len(made)
            left -= sum(portion.pictures for portion in chunk)
            launched += [portion.shard.key for portion in chunk]
            self.lines.append(told(_VERBS[cause], chunk))
        return launched

    def _chunks(self, portions: Sequence[Portion]) -> list[list[Portion]]:
        """Portions that one run can take: the same work on a range of shards."""
        chunks: list[list[Portion]] = []
        for group in alike(portions):
            of = {portion.shard.key: portion for portion in group}
            ranges = contiguous([portion.shard for portion in group], self._shards, self._most)
            chunks += [[of[shard.key] for shard in each] for each in ranges]
        return chunks

    def _request(self, cause: Cause, chunk: Sequence[Portion], turns: Turns) -> list[dg.RunRequest]:
        media = [MEDIA] if chunk[0].media else []
        cost = sum(portion.cost for portion in chunk)
        pictures = sum(portion.pictures for portion in chunk)
        tags = {run_tags.PICTURES: str(pictures), run_tags.WHY: told(_VERBS[cause], chunk)}
        return run_requests(
            self._instance,
            cause,
            [portion.shard for portion in chunk],
            self._shards,
            tags | ({run_tags.COST: f"{cost:.6f}"} if cost else {}),
            run_key=False,
            assets=[*media, *(caption_key(name) for name in chunk[0].perspectives)],
            shards_per_run=self._most,
            turns=turns,
        )


def _number(tags: Mapping[str, str], name: str) -> float:
    try:
        return float(tags.get(name, "0"))
    except ValueError:  # somebody changed it by hand
        return 0.0
