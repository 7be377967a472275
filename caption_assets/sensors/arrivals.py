"""`arrivals_<dataset>`: sees new pictures of a watched dataset, plans them, and launches their shards.

The plan in the lake is the truth, the cursor only the number of shards handed over: a tick that dies anywhere is made good
by the next one, which finds shards that are planned, beyond the cursor and without media.
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import dagster as dg

from caption_assets.config import PipelineConfig
from caption_assets.jobs import CAPTION_JOB
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import shards_partitions, unregistered
from caption_assets.resources import PipelineResource
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards

_INTERVAL_SECONDS = 15
_SHARDS_PER_RUN = 50
_CURSOR_VERSION = 1


def build_arrival_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """One sensor for every dataset with `watch: true`."""
    return [_build(name) for name, dataset in sorted(config.datasets.items()) if dataset.watch]


def _build(name: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"arrivals_{name.replace('-', '_').replace('.', '_')}",
        job_name=CAPTION_JOB,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Plans new pictures of {name} and captions them.",
    )
    def arrivals(
        context: dg.SensorEvaluationContext, pipeline: PipelineResource
    ) -> dg.SensorResult | dg.SkipReason:
        settings, lake = pipeline.config(), pipeline.lake()
        try:
            source = open_source(settings, name, settle=True)
            planned = plan_dataset(lake, name, source, settings.datasets[name].shard_size)
        except FileNotFoundError as error:
            return dg.SkipReason(f"the folder of {name} is not there: {error}")
        waiting = _waiting(lake, planned_shards(lake, name), handed_over(context.cursor))
        if not waiting:
            return dg.SkipReason(f"no new pictures in {name} ({len(planned.shards)} shards planned)")
        keys = ", ".join(shard.key for shard in waiting)
        context.log.info(f"{planned.new_items} new pictures → {keys}")
        return dg.SensorResult(
            run_requests=[_request(chunk) for chunk in contiguous(waiting)],
            dynamic_partitions_requests=[
                shards_partitions.build_add_request(unregistered(context.instance, waiting))
            ],
            cursor=json.dumps({"version": _CURSOR_VERSION, "handed_over": waiting[-1].number}),
        )

    return arrivals


def handed_over(cursor: str | None) -> int:
    """Number of the last shard for which a run was requested; -1 before the first, or with a cursor not ours."""
    try:
        value = json.loads(cursor or "")
        return int(value["handed_over"]) if value["version"] == _CURSOR_VERSION else -1
    except (ValueError, KeyError, TypeError):
        return -1


def contiguous(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Runs of consecutive numbers, cut to what one run may take."""
    chunks: list[list[Shard]] = [[shards[0]]] if shards else []
    for before, shard in pairwise(shards):
        if shard.number == before.number + 1 and len(chunks[-1]) < _SHARDS_PER_RUN:
            chunks[-1].append(shard)
        else:
            chunks.append([shard])
    return chunks


def _waiting(lake: Lake, shards: Sequence[Shard], handed: int) -> list[Shard]:
    return [shard for shard in shards if shard.number > handed and not lake.exists(layout.media_index(shard))]


def _request(shards: Sequence[Shard]) -> dg.RunRequest:
    first, last = shards[0].key, shards[-1].key
    tags = {"caption_assets/arrival": "true"}
    if first == last:
        return dg.RunRequest(run_key=first, partition_key=first, tags=tags)
    ranged = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.RunRequest(run_key=f"{first}..{last}", tags=tags | ranged)
