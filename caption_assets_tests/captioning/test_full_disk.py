"""The lake's disk fills up: the run says so and keeps what it wrote; with more room the next one goes on."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.lake.store import Lake, LakeFull
from caption_assets.sources.planner import planned_shards
from caption_assets_tests import invariants
from caption_assets_tests.assets.running import Pipeline
from caption_assets_tests.captioning.attacked import whole_path
from caption_assets_tests.captioning.processes import engines
from caption_assets_tests.captioning.test_kills import stored
from caption_assets_tests.engine.stub_server import StubServer
from caption_assets_tests.support import bound_of

MakeConfig = Callable[..., PipelineConfig]
_PAGE = 4096


def may_mount(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test that mounts: here for root, else in a user namespace; skipped where there is neither."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        if os.geteuid() == 0:
            test(*args, **kwargs)
            return
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root or user namespaces")
        name = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"
        subprocess.run(["unshare", "-rm", sys.executable, "-m", "pytest", "-q", name], check=True)

    return run


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A disk of so many bytes; yields what gives it another size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(root: str) -> int:
    """Bytes that a folder's files take, in whole pages."""
    files = (file for file in Path(root).rglob("*") if file.is_file())
    return sum(-(-file.stat().st_size // _PAGE) * _PAGE for file in files)


@may_mount
@pytest.mark.slow
def test_a_disk_that_fills_up_costs_only_time(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "FLUSH_ROWS", 3)
    with StubServer() as server:
        config = make_config(engines=engines(server), lake="./undisturbed")
        whole_path(str(config.file), "undisturbed")
        calm = Lake(config.lake)
        undisturbed, size = invariants.contents(config, calm), on_disk(config.lake)

        config = make_config(engines=engines(server), lake="./disk/lake")
        lake, kept, stages = Lake(config.lake), {}, set[str]()
        with small_disk(tmp_path / "disk", _PAGE) as resize:
            for step in range(1, 30):
                try:
                    whole_path(str(config.file), f"run{step}")
                    break
                except LakeFull as full:
                    message = str(full)
                assert message.startswith(f"the disk of {tmp_path}/disk/lake/.scratch is full"), message
                assert not lake.list(".scratch"), "what could not be finished leaves its room to others"
                now = stored(config, lake)
                assert {key: now.get(key) for key in kept} == kept
                kept = now
                stages.add("captions" if kept else "media" if planned_shards(lake, "demo") else "plan")
                resize(step * size // 20)
            assert stages >= {"media", "captions"}, "it was full at every stage"
            assert stored(config, lake).items() >= kept.items()
            assert invariants.contents(config, lake) == undisturbed
            invariants.hold(config, lake)
            invariants.complete(config, lake)
            invariants.tidy(lake, calm)


@may_mount
def test_a_job_on_a_full_disk_fails_in_one_sentence(make_config: MakeConfig, tmp_path: Path) -> None:
    with StubServer() as server, small_disk(tmp_path / "disk", 8 << 20) as resize:
        config = make_config(engines=engines(server), lake="./disk/lake")
        pipeline = Pipeline.of(config)
        assert pipeline.ingest().success
        shard = pipeline.shards[0]
        full = f"the disk of {tmp_path}/disk/lake/.scratch is full"

        resize(on_disk(config.lake) + 2 * _PAGE)
        assert pipeline.run("ingest_job", "demo").success, "nothing is new, so nothing is written"
        outcome = pipeline.caption(shard)
        assert not outcome.success
        assert full in outcome.failures
        assert "Traceback" not in outcome.failures
        assert len(outcome.failures.splitlines()) <= 2, outcome.failures
        resize(8 << 20)
        assert pipeline.run("caption_job", shard, select=["media"]).success

        resize(on_disk(config.lake) + 12 * _PAGE)
        outcome = pipeline.caption(shard)
        assert not outcome.success
        assert outcome.failures.startswith(full), outcome.failures
        assert "Traceback" not in outcome.failures
        resize(8 << 20)
        assert pipeline.caption(shard).success
        assert all(
            len(rows.read_rows(Lake(config.lake), bound, planned_shards(Lake(config.lake), "demo")[0])) == 8
            for bound in bound_of(config).values()
        )
