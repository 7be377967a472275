"""`kafka_out` publishes outcomes on Kafka; `arrivals_<dataset>` plans what a topic names, and launches its shards.

What was planned, found and told stands in the lake: a tick that dies anywhere is made good by the next one.
"""

import json
from collections.abc import Sequence

import dagster as dg

from caption_assets import run_tags
from caption_assets.config import ConfigError, KafkaDataset, PipelineConfig
from caption_assets.events.channels import channels
from caption_assets.events.news import asked_for
from caption_assets.events.publishing import publish_outcomes
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, shards_partitions, unregistered
from caption_assets.resources import PipelineResource
from caption_assets.run_tags import Cause
from caption_assets.sensors.launching import run_requests
from caption_assets.sensors.outcomes import outcomes
from caption_assets.sources.planner import Planned, open_source, plan_dataset

KAFKA_OUT = "kafka_out"
_INTERVAL_SECONDS = 30
_CURSOR_VERSION = 1


def build_kafka_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """`kafka_out`, where something goes to Kafka, and a sensor for each dataset of kind `kafka` with `watch: true`."""
    watched = [name for name, each in sorted(config.datasets.items()) if isinstance(each, KafkaDataset) and each.watch]
    return [*([_build_out()] if channels(config) else []), *(_build_arrivals(name) for name in watched)]


def _build_out() -> dg.SensorDefinition:
    @dg.sensor(
        name=KAFKA_OUT,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: publishes on Kafka what happened to pictures, shards and jobs.",
    )
    def kafka_out(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        settings = pipeline.config()
        if not channels(settings):
            return dg.SkipReason("the pipeline file sends nothing to Kafka any more")
        lines = publish_outcomes(
            settings,
            Lake(settings.lake),
            lambda looked: list(outcomes(context, looked, asked_for(settings))),
            tables.now,
            context.log.warning,
        )
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("; ".join(lines))

    return kafka_out


def _build_arrivals(name: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"arrivals_{name.replace('-', '_').replace('.', '_')}",
        job_name=CAPTION_JOB,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: plans what messages name for {name}, and runs {CAPTION_JOB} on it.",
    )
    def arrivals(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult | dg.SkipReason:
        settings = pipeline.config()
        lake = Lake(settings.lake)
        try:
            source = open_source(settings, name, settle=True)
            planned = plan_dataset(lake, name, source, settings.datasets[name].shard_size)
        except (OSError, ConfigError) as error:
            return dg.SkipReason(f"the source of {name} is not there: {error}")
        for note in planned.notes:
            context.log.warning(note)
        waiting = _waiting(lake, name, planned.shards, _handed_over(context.cursor))
        if not waiting:
            told = "; ".join([f"no new shard in {name} ({len(planned.shards)} planned)", *planned.notes])
            return dg.SkipReason(told)
        why = _explanation(planned, waiting)
        context.log.info(why)
        known = context.instance.get_dynamic_partitions(SHARDS)
        new = unregistered(context.instance, waiting)
        return dg.SensorResult(
            run_requests=run_requests(context.instance, Cause.ARRIVAL, waiting, [*known, *new], {run_tags.WHY: why}),
            dynamic_partitions_requests=[shards_partitions.build_add_request(new)] if new else [],
            cursor=json.dumps({"version": _CURSOR_VERSION, "handed_over": waiting[-1].number}),
        )

    return arrivals


def _explanation(planned: Planned, waiting: Sequence[Shard]) -> str:
    what = f"{planned.new_items} new messages" if planned.new_items else "nothing new, but shards never handed over"
    return f"{what} → {'shard' if len(waiting) == 1 else 'shards'} {', '.join(shard.key for shard in waiting)}"


def _handed_over(cursor: str | None) -> int:
    """Number of the last shard for which a run was requested; -1 before the first, or with a cursor not ours."""
    try:
        value = json.loads(cursor or "")
        return int(value["handed_over"]) if value["version"] == _CURSOR_VERSION else -1
    except (ValueError, KeyError, TypeError):
        return -1


def _waiting(lake: Lake, dataset: str, shards: Sequence[Shard], handed: int) -> list[Shard]:
    """The shards that were not handed over and have no media: with a cursor that was reset, too."""
    beyond = [shard for shard in shards if shard.number > handed]
    stored = set(lake.list(layout.media_folder(dataset))) if beyond else set()  # one listing, not N requests
    return [shard for shard in beyond if f"{shard.key}.parquet" not in stored]
