"""`consolidation_job`: merges a dataset's small shards, and lets Dagster know the new ones and forget the old."""

import dagster as dg

from caption_assets.assets.captions import caption_key
from caption_assets.assets.media import MEDIA
from caption_assets.captioning import rows
from caption_assets.captioning.loaded import Loaded
from caption_assets.consolidation.merging import Merged
from caption_assets.consolidation.run import consolidate
from caption_assets.lake.store import Lake
from caption_assets.partitions import busy_shards, forget, register
from caption_assets.schedules.daily import daily, dataset_job
from caption_assets.sources.planner import planned_shards

CONSOLIDATION_JOB = "consolidation_job"
_WHAT = (
    "Merge the small shards of a dataset (fewer than half of shard_size items) whose media and captions are done into "
    "full ones. Nothing is decoded or captioned again, captions keep their provenance; the old shards are retired."
)


def build_consolidation_job(loaded: Loaded) -> dg.JobDefinition:
    """The job, with a partition for every dataset of the pipeline file."""

    def work(context: dg.OpExecutionContext, lake: Lake) -> None:
        instance = context.instance
        lake.remove_strays()
        report = consolidate(
            loaded.config,
            lake,
            context.partition_key,
            context.run_id,
            lambda: busy_shards(instance, but=context.run_id),
            context.log.info,
        )
        register(instance, planned_shards(lake, report.dataset))
        for merged in report.merged:
            _tell(context, lake, loaded, merged)
        gone = forget(instance, report.retired)
        context.log.info(str(report))
        context.add_output_metadata(
            {
                "merged": {each.merge.successor.key: [part.key for part in each.merge.parts] for each in report.merged},
                "small shards left alone": dict(report.waiting),
                "shards whose files were removed": [shard.key for shard in report.swept],
                "keys retired": gone,
            }
        )

    return dataset_job(CONSOLIDATION_JOB, _WHAT, loaded, work)


def build_consolidation_schedule(loaded: Loaded, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The schedule `consolidation`."""
    return daily(job, (3, 45), loaded, "Merges small finished shards into full ones.")


def _tell(context: dg.OpExecutionContext, lake: Lake, loaded: Loaded, merged: Merged) -> None:
    """Show the new shard as made, so that nobody materializes it to see nothing happen."""
    shard, told = merged.merge.successor, {"merged from": ", ".join(part.key for part in merged.merge.parts)}
    context.log_event(
        dg.AssetMaterialization(MEDIA, partition=shard.key, metadata={**told, "pictures": merged.pictures})
    )
    for each in loaded.bound.values():
        tags = {
            "dagster/code_version": each.fingerprint,
            "dagster/data_version": rows.contents_digest(lake, each, shard),
            "dagster/data_version_is_user_provided": "true",
        }
        made = dg.AssetMaterialization(caption_key(each.name), partition=shard.key, metadata=told, tags=tags)
        context.log_event(made)
