"""`arrivals_<dataset>`: sees new pictures of a watched dataset, plans them, and launches their shards.

The plan in the lake is the truth, the cursor only the number of the last shard handed over: a tick that dies anywhere
is made good by the next one, which finds shards that are planned, beyond the cursor and without media.
"""

import json
from collections.abc import Sequence

import dagster as dg

from caption_assets.config import KafkaDataset, PipelineConfig
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, shards_partitions, unregistered
from caption_assets.resources import PipelineResource
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import run_requests
from caption_assets.sources.planner import Planned, open_source, plan_dataset

_INTERVAL_SECONDS = 30
_CURSOR_VERSION = 1
_TAGS = {"caption_assets/arrival": "true"}


def build_arrival_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """One sensor for every dataset with `watch: true`; those of Kafka have their own (kafka.py)."""
    return [
        _build(name)
        for name, dataset in sorted(config.datasets.items())
        if dataset.watch and not isinstance(dataset, KafkaDataset)
    ]


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
        try:
            source = open_source(settings, name, settle=True)
            planned = plan_dataset(lake, name, source, settings.datasets[name].shard_size)
        except (FileNotFoundError, NotADirectoryError) as error:
            return dg.SkipReason(f"the source of {name} is not there: {error}")
        waiting = _waiting(lake, planned.shards, handed_over(context.cursor))
        if not waiting:
            return dg.SkipReason(f"no new pictures in {name} ({len(planned.shards)} shards planned)")
        context.log.info(_explanation(planned, waiting))
        known = context.instance.get_dynamic_partitions(SHARDS)
        new = unregistered(context.instance, waiting)
        return dg.SensorResult(
            run_requests=run_requests(context.instance, Cause.ARRIVAL, waiting, [*known, *new], _TAGS),
            dynamic_partitions_requests=[shards_partitions.build_add_request(new)] if new else [],
            cursor=json.dumps({"version": _CURSOR_VERSION, "handed_over": waiting[-1].number}),
        )

    return arrivals


def _explanation(planned: Planned, waiting: Sequence[Shard]) -> str:
    """The tick in one line, for its log."""
    what = f"{planned.new_items} new pictures" if planned.new_items else "no new pictures, but shards never handed over"
    return f"{what} → {'shard' if len(waiting) == 1 else 'shards'} {', '.join(shard.key for shard in waiting)}"


def handed_over(cursor: str | None) -> int:
    """Number of the last shard for which a run was requested; -1 before the first, or with a cursor not ours."""
    try:
        value = json.loads(cursor or "")
        return int(value["handed_over"]) if value["version"] == _CURSOR_VERSION else -1
    except (ValueError, KeyError, TypeError):
        return -1


def _waiting(lake: Lake, shards: Sequence[Shard], handed: int) -> list[Shard]:
    beyond = [shard for shard in shards if shard.number > handed]
    if not beyond:
        return []
    stored = set(lake.list(layout.media_folder(beyond[0].dataset)))  # one listing, not N requests
    return [shard for shard in beyond if f"{shard.key}.parquet" not in stored]
