"""`caption-assets wait`: a run's end as an exit code, for scripts."""

from __future__ import annotations

import sys
import time

SUCCEEDED, FAILED, UNKNOWN = 0, 1, 2
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 15.0


def wait_for_run(run_id: str, timeout: float) -> int:
    """Wait for a run of the instance that DAGSTER_HOME names.

    Returns:
        0 when it succeeded, 1 when it failed or was cancelled, 2 on timeout or when there is no such run.
    """
    import dagster as dg

    try:
        instance = dg.DagsterInstance.get()
    except Exception as error:  # DAGSTER_HOME unset or wrong, a database that is away: all mean "unknown"
        print(f"error: no Dagster instance: {error}; set DAGSTER_HOME", file=sys.stderr)
        return UNKNOWN
    started = time.monotonic()
    with instance:
        while True:
            run, trouble = None, "there is no such run"
            try:
                run = instance.get_run_by_id(run_id)
            except Exception as error:  # a database that is away for a moment says nothing about the run
                trouble = f"the instance cannot be asked: {error}"
            waited = time.monotonic() - started
            if run is not None and run.is_finished:
                print(f"run {run_id}: {run.status.value}")
                return SUCCEEDED if run.is_success else FAILED
            if run is None and waited > min(timeout, _GRACE_SECONDS):
                print(f"error: run {run_id}: {trouble}", file=sys.stderr)
                return UNKNOWN
            if waited > timeout:
                print(f"error: run {run_id} has not ended after {timeout:g} s", file=sys.stderr)
                return UNKNOWN
            time.sleep(min(_POLL_SECONDS, max(0.05, timeout - waited)))
