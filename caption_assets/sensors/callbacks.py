"""`callbacks`: finds outcomes in the lake and among Dagster's runs, and tells them to the pipeline file's receivers.

What was found and what was told stands in the lake: a tick that dies anywhere is made good by the next one.
"""

import dagster as dg

from caption_assets.config import PipelineConfig
from caption_assets.events.news import asked_for
from caption_assets.events.telling import tell_outcomes
from caption_assets.lake import tables
from caption_assets.lake.store import Lake
from caption_assets.resources import PipelineResource
from caption_assets.sensors.outcomes import outcomes

CALLBACKS = "callbacks"
_INTERVAL_SECONDS = 30


def build_callback_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """The sensor, where the pipeline file names receivers."""
    return [_build()] if config.callbacks else []


def _build() -> dg.SensorDefinition:
    @dg.sensor(
        name=CALLBACKS,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: tells outcomes of shards, datasets and jobs to receivers.",
    )
    def callbacks(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        settings = pipeline.config()
        if not settings.callbacks:
            return dg.SkipReason("the pipeline file names no callbacks any more")
        lines = tell_outcomes(
            settings,
            Lake(settings.lake),
            lambda looked: list(outcomes(context, looked, asked_for(settings))),
            tables.now,
            context.log.warning,
        )
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("; ".join(lines))

    return callbacks
