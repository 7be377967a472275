"""`caption-assets reconcile`: compares sources, plans, files and partitions, and prints what did not fit."""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import ExitStack

from caption_assets.captioning.catalog import refresh
from caption_assets.config import ConfigError, load_config
from caption_assets.lake.store import Lake
from caption_assets.reconciliation.run import Registry, reconcile


def reconcile_datasets(name: str | None) -> int:
    """Reconcile a dataset, or all; returns the exit code: 0, or 1 where something is left to do."""
    config = load_config(check_paths=False)  # a source that is away is reported
    if name is not None and name not in config.datasets:
        known = ", ".join(sorted(config.datasets))
        raise ConfigError(f"{config.file}: datasets: there is no dataset {name!r}; give one of {known}")
    lake, run_id, left = Lake(config.lake), f"reconcile-{uuid.uuid4().hex[:12]}", False
    with ExitStack() as stack:
        registry = _registry(stack, run_id)
        for dataset in [name] if name else sorted(config.datasets):
            report = reconcile(config, lake, dataset, run_id, registry)
            left |= report.left
            print("\n".join(report.lines()))
    refresh(config, lake)
    return 1 if left else 0


def _registry(stack: ExitStack, run_id: str) -> Registry | None:
    """The partitions of the instance that DAGSTER_HOME names, if it does."""
    if not os.environ.get("DAGSTER_HOME"):
        print("DAGSTER_HOME names no instance: Dagster's partitions are left out", file=sys.stderr)
        return None
    import dagster as dg

    from caption_assets.schedules.reconciliation import registry_of

    try:
        instance = stack.enter_context(dg.DagsterInstance.get())
    except Exception as error:  # a folder that is not there, a database that is away
        raise ConfigError(f"DAGSTER_HOME: no Dagster instance: {error}; correct it, or unset it") from None
    return registry_of(instance, run_id)
