"""A job over datasets, and its daily run for every watched one."""

from collections.abc import Callable

import dagster as dg

from caption_assets.assets.common import plain_failure
from caption_assets.captioning.catalog import refresh
from caption_assets.captioning.loaded import Loaded
from caption_assets.lake.store import Lake
from caption_assets.partitions import datasets_partitions
from caption_assets.resources import PipelineResource


def dataset_job(
    name: str, description: str, loaded: Loaded, work: Callable[[dg.OpExecutionContext, Lake], None]
) -> dg.JobDefinition:
    """A job with a partition for every dataset of the pipeline file; the catalog is made anew after its work."""

    @dg.op(name=name.removesuffix("_job"), description=description)
    def do(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
        with plain_failure():
            work(context, pipeline.lake())
            refresh(loaded.config, pipeline.lake(), loaded.bound)

    @dg.job(name=name, description=description, partitions_def=datasets_partitions(loaded.config))
    def job() -> None:
        do()

    return job


def daily(job: dg.JobDefinition, at: tuple[int, int], loaded: Loaded, description: str) -> dg.ScheduleDefinition:
    """The schedule of such a job: on by default where a dataset is watched.

    Args:
        at: hour and minute, UTC.
    """
    name, datasets = job.name.removesuffix("_job"), loaded.config.datasets
    watched = sorted(key for key, dataset in datasets.items() if dataset.watch)
    names = watched or sorted(datasets)

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=f"{at[1]} {at[0]} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if watched else dg.DefaultScheduleStatus.STOPPED,
        description=f"{description} Daily at {at[0]:02}:{at[1]:02} UTC for {', '.join(names)}.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        moment = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        return [dg.RunRequest(run_key=f"{name}:{key}:{moment}", partition_key=key) for key in names]

    return schedule
