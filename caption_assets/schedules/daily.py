"""A daily run of a job for every watched dataset."""

from __future__ import annotations

import dagster as dg

from caption_assets.config import PipelineConfig


def daily(
    name: str, job: dg.JobDefinition, at: tuple[int, int], config: PipelineConfig, description: str
) -> dg.ScheduleDefinition:
    """The schedule: on by default where a dataset is watched.

    Args:
        at: hour and minute, UTC.
    """
    watched = sorted(key for key, dataset in config.datasets.items() if dataset.watch)
    names = watched or sorted(config.datasets)

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
