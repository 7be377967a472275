"""`callbacks` and `kafka_out`: tell what is found in the lake and among Dagster's runs to whom the pipeline file names.

What was found and what was told stands in the lake: a tick that dies anywhere is made good by the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Way:
    """A way to tell: its sensor, when the pipeline file wants it, and what is done at each tick."""

    name: str
    description: str
    is_wanted: Callable[[PipelineConfig], bool]
    tell: Callable[[Teller], list[str]]


_WAYS = (
    _Way(
        CALLBACKS,
        "tells outcomes of shards, datasets and jobs to receivers.",
        lambda config: bool(config.callbacks),
        Teller.call_back,
    ),
    _Way(
        KAFKA_OUT,
        "publishes on Kafka what happened to pictures, shards and jobs.",
        lambda config: bool(channels(config)),
        Teller.publish,
    ),
)


def build_telling_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """`callbacks`, where the pipeline file names receivers, and `kafka_out`, where something goes to Kafka."""
    return [_build(way) for way in _WAYS if way.is_wanted(config)]


def _build(way: _Way) -> dg.SensorDefinition:
    @dg.sensor(
        name=way.name,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: {way.description}",
    )
    def telling(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
        settings = pipeline.config()
        if not way.is_wanted(settings):
            return dg.SkipReason("the pipeline file names nobody to be told any more")
        teller = Teller(
            settings,
            Lake(settings.lake),
            lambda looked: list(outcomes(context, looked, asked_for(settings))),
            tables.now,
            context.log.warning,
        )
        lines = way.tell(teller)
        for line in lines:
            context.log.info(line)
        return dg.SkipReason("; ".join(lines))

    return telling
