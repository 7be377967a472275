"""`reconciliation_job`: compares a dataset's source, plans, files and partitions, and says what did not fit."""

import dagster as dg

from caption_assets.assets.datasets import DATASETS
from caption_assets.captioning.loaded import Loaded
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS, busy_shards, forget, register
from caption_assets.reconciliation.run import Registry, reconcile
from caption_assets.schedules.daily import daily, dataset_job

RECONCILIATION_JOB = "reconciliation_job"
_WHAT = (
    "Compare a dataset's source, plans, files and partitions. New items are planned and registered, items that left "
    "the source are marked; all else that does not fit is reported: here, and in the view `reconciliations`."
)


def build_reconciliation_job(loaded: Loaded) -> dg.JobDefinition:
    """The job, with a partition for every dataset of the pipeline file."""

    def work(context: dg.OpExecutionContext, lake: Lake) -> None:
        dataset, registry = context.partition_key, registry_of(context.instance, context.run_id)
        report = reconcile(loaded.config, lake, dataset, context.run_id, registry)
        for line in report.lines():
            (context.log.warning if report.left else context.log.info)(line)
        told: dict[str, dg.MetadataValue] = {
            **({} if report.scanned is None else {"items in the source": dg.MetadataValue.int(report.scanned)}),
            "shards": dg.MetadataValue.int(report.shards),
            "report": dg.MetadataValue.md("```\n" + "\n".join(report.lines()) + "\n```"),
            **{kind: dg.MetadataValue.int(each.count) for kind, each in report.findings.items()},
        }
        context.add_output_metadata(told)
        context.log_event(dg.AssetObservation(DATASETS, partition=dataset, metadata=told))

    return dataset_job(RECONCILIATION_JOB, _WHAT, loaded, work)


def build_reconciliation_schedule(loaded: Loaded, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The schedule `reconciliation`."""
    return daily(job, (3, 15), loaded, "Finds and reports what sensors missed.")


def registry_of(instance: dg.DagsterInstance, run_id: str) -> Registry:
    """The partitions of an instance; `run_id`: the run that asks."""
    return Registry(
        registered=lambda: instance.get_dynamic_partitions(SHARDS),
        add=lambda shards: register(instance, shards),
        remove=lambda shards: forget(instance, shards),
        busy=lambda: busy_shards(instance, but=run_id),
    )
