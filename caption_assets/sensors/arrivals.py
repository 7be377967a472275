"""`arrivals_<dataset>`: sees new pictures of a watched dataset, plans them, and launches their shards.

The plan in the lake is the truth, the cursor only says where to go on: a tick that dies anywhere is made good by the
next one, which finds shards that are planned, beyond the last one handed over, and without media.
"""

from collections.abc import Sequence

import dagster as dg

from caption_assets import run_tags
from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.handing import to_hand_over
from caption_assets.arrivals.tick import Outcome, tick
from caption_assets.captioning.catalog import refresh
from caption_assets.config import PipelineConfig
from caption_assets.jobs import CAPTION_JOB
from caption_assets.kafka.client import KafkaAway
from caption_assets.lake import tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, shards_partitions, unregistered
from caption_assets.resources import PipelineResource
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import run_requests

_INTERVAL_SECONDS = 30
_NAMED = 20
"""So many shards a tick names one by one."""


def build_arrival_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """One sensor for every dataset with `watch: true`."""
    return [_build(name) for name, dataset in sorted(config.datasets.items()) if dataset.watch]


def _build(name: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"arrivals_{name.replace('-', '_').replace('.', '_')}",
        job_name=CAPTION_JOB,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: plans new pictures of {name} and runs {CAPTION_JOB} on them.",
    )
    def arrivals(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult | dg.SkipReason:
        settings = pipeline.config()
        lake = Lake(settings.lake)
        outcome = tick(settings, lake, name, Cursor.parse(context.cursor), tables.now())
        if outcome.marked:
            refresh(settings, lake)
        waiting = to_hand_over(lake, name, outcome)
        if not waiting:
            return _skip(context, name, outcome)
        if outcome.problem:
            context.log.warning(f"{name} could not be listed to its end: {outcome.problem}")
        why = _explanation(outcome, waiting)
        context.log.info(why)
        known = context.instance.get_dynamic_partitions(SHARDS)
        new = unregistered(context.instance, waiting)
        outcome.cursor.handed_over = waiting[-1].number
        return dg.SensorResult(
            run_requests=run_requests(context.instance, Cause.ARRIVAL, waiting, [*known, *new], {run_tags.WHY: why}),
            dynamic_partitions_requests=[shards_partitions.build_add_request(new)] if new else [],
            cursor=outcome.cursor.dump(),
        )

    return arrivals


def _skip(context: dg.SensorEvaluationContext, name: str, outcome: Outcome) -> dg.SkipReason:
    """Why nothing is launched. Raises OSError where the source cannot be listed although it is there."""
    if isinstance(outcome.problem, FileNotFoundError | NotADirectoryError | KafkaAway):
        return dg.SkipReason(f"the source of {name} is not there: {outcome.problem}")
    if outcome.problem:
        raise outcome.problem
    context.update_cursor(outcome.cursor.dump())
    return dg.SkipReason("; ".join([f"no new pictures in {name} ({outcome.planned} shards planned)", *outcome.notes]))


def _explanation(outcome: Outcome, waiting: Sequence[Shard]) -> str:
    """The tick in one line."""
    new = outcome.new_items
    pictures = "new picture" if new == 1 else "new pictures"
    what = f"{new:,} {pictures}" if new else "no new pictures, but shards never handed over"
    keys = [shard.key for shard in waiting]
    named = ", ".join(keys) if len(keys) <= _NAMED else f"{keys[0]} … {keys[-1]}"
    return "; ".join([f"{what} → {'shard' if len(waiting) == 1 else 'shards'} {named}", *outcome.notes])


def handed_over(cursor: str | None) -> int:
    """Number of the last shard for which a run was requested; -1 before the first, or with a cursor not ours."""
    return Cursor.parse(cursor).handed_over
