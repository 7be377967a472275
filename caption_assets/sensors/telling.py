"""`callbacks` and `kafka_out`: tell what is found in the lake and among Dagster's runs to whom the pipeline file names.

What was found and what was told stands in the lake: a tick that dies anywhere is made good by the next one.
"""

from collections.abc import Callable

import dagster as dg

from caption_assets.config import PipelineConfig
from caption_assets.events.channels import channels
from caption_assets.events.news import asked_for
from caption_assets.events.telling import Teller
from caption_assets.lake import tables
from caption_assets.lake.store import Lake
from caption_assets.resources import PipelineResource
from caption_assets.sensors.outcomes import outcomes

CALLBACKS = "callbacks"
KAFKA_OUT = "kafka_out"
_INTERVAL_SECONDS = 30


def build_telling_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """`callbacks`, where the pipeline file names receivers, and `kafka_out`, where something goes to Kafka."""
    receivers = _build(CALLBACKS, "tells outcomes of shards, datasets and jobs to `callbacks`.", Teller.call_back)
    kafka = _build(KAFKA_OUT, "publishes on Kafka what happened to pictures, shards and jobs.", Teller.publish)
    return [*([receivers] if config.callbacks else []), *([kafka] if channels(config) else [])]


def _build(name: str, what: str, tell: Callable[[Teller], list[str]]) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: {what}",
    )
    def telling(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        settings = pipeline.config()
        if name not in {each.name for each in build_telling_sensors(settings)}:
            return dg.SkipReason("the pipeline file names nobody to be told any more")
        teller = Teller(
            settings,
            Lake(settings.lake),
            lambda looked: list(outcomes(context, looked, asked_for(settings))),
            tables.now,
            context.log.warning,
        )
        lines = tell(teller)
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("; ".join(lines))

    return telling
