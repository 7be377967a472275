"""`caption-assets wait`: the end of a run as an exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from caption_assets.cli import main
from caption_assets.commands import wait as wait_module

UNKNOWN_RUN = "00000000-0000-4000-8000-000000000000"


@dg.op
def works() -> None:
    """End well."""


@dg.op
def breaks() -> None:
    """End badly."""
    raise dg.Failure("on purpose")


@dg.job
def good() -> None:
    works()


@dg.job
def bad() -> None:
    breaks()


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance that DAGSTER_HOME names."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


def wait(run_id: str, timeout: float = 0.2) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["wait", run_id, "--timeout", str(timeout)])


def test_a_run_that_succeeded_is_0(instance: dg.DagsterInstance) -> None:
    run_id = good.execute_in_process(instance=instance).run_id
    result = wait(run_id)
    assert (result.exit_code, result.stdout) == (0, f"run {run_id}: SUCCESS\n")


def test_a_run_that_failed_is_1(instance: dg.DagsterInstance) -> None:
    run_id = bad.execute_in_process(instance=instance, raise_on_error=False).run_id
    result = wait(run_id)
    assert (result.exit_code, result.stdout) == (1, f"run {run_id}: FAILURE\n")


def test_a_run_that_was_cancelled_is_1(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(good)
    instance.report_run_canceled(run)
    assert wait(run.run_id).exit_code == 1


def test_a_run_that_does_not_end_is_2(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(good)
    result = wait(run.run_id)
    assert result.exit_code == 2
    assert result.stderr == f"error: run {run.run_id} has not ended after 0.2 s\n"


def test_a_run_that_is_not_known_is_2(instance: dg.DagsterInstance) -> None:
    result = wait(UNKNOWN_RUN)
    assert result.exit_code == 2
    assert result.stderr == f"error: run {UNKNOWN_RUN}: there is no such run\n"


def after_two_looks(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> list[float]:
    """Let something happen while the command pauses for the second time; returns its pauses."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            happens()

    monkeypatch.setattr(wait_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    return pauses


def test_it_waits_for_a_run_that_is_under_way(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    run = instance.create_run_for_job(good)
    pauses = after_two_looks(monkeypatch, lambda: instance.report_run_canceled(run))
    assert wait(run.run_id, timeout=60).exit_code == 1
    assert pauses == [1.0, 1.0]


def test_it_waits_for_a_run_that_is_about_to_be_made(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = after_two_looks(monkeypatch, lambda: good.execute_in_process(instance=instance, run_id=UNKNOWN_RUN))
    assert wait(UNKNOWN_RUN, timeout=60).exit_code == 0
    assert pauses == [1.0, 1.0]


def test_an_instance_that_cannot_be_asked_is_no_failed_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = good.execute_in_process(instance=instance).run_id
    asked: list[str] = []
    ask = dg.DagsterInstance.get_run_by_id

    def away(self: dg.DagsterInstance, wanted: str) -> dg.DagsterRun | None:
        asked.append(wanted)
        if len(asked) == 1:
            raise OSError("the database is away")
        return ask(self, wanted)

    monkeypatch.setattr(dg.DagsterInstance, "get_run_by_id", away)
    assert wait(run_id, timeout=10).exit_code == 0
    assert len(asked) == 2

    def gone(self: dg.DagsterInstance, wanted: str) -> dg.DagsterRun | None:
        raise OSError("the database is away")

    monkeypatch.setattr(dg.DagsterInstance, "get_run_by_id", gone)
    result = wait(run_id)
    assert result.exit_code == 2
    assert "the instance cannot be asked: the database is away" in result.stderr


def test_without_an_instance_it_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = wait(UNKNOWN_RUN)
    assert result.exit_code == 2
    assert "set DAGSTER_HOME" in result.stderr
