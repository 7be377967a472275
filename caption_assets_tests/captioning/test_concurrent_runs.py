"""Two runs at once on the same shards, with no lock between them: no row lost, and one row each in the views."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views, refresh
from caption_assets.config import PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests import invariants
from caption_assets_tests.captioning.attacked import reseal
from caption_assets_tests.captioning.processes import FORKS, Runs, engines
from caption_assets_tests.engine.stub_server import StubServer
from caption_assets_tests.support import bound_of

MakeConfig = Callable[..., PipelineConfig]


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer(latency=0.01) as server:
        yield server


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(each, marks=pytest.mark.slow) for each in (2, 3))])
def test_runs_at_once_leave_what_one_run_leaves(make_config: MakeConfig, stub: StubServer, seed: int) -> None:
    chance = random.Random(seed)
    config = make_config(engines=engines(stub), lake="./undisturbed")
    with Runs(config) as runs:
        span = runs.finish()
    calm = Lake(config.lake)
    undisturbed = invariants.contents(config, calm)

    config = make_config(engines=engines(stub))
    lake = Lake(config.lake)
    with Runs(config) as runs:
        first = runs.start()
        first.join(chance.uniform(0, span / 2))  # the second finds anything from nothing to half of the work
        together = [first, runs.start(), runs.start()]
        for process in together:
            process.join(60)
        assert [process.exitcode for process in together] == [0, 0, 0]
        assert invariants.contents(config, lake) == undisturbed
        invariants.hold(config, lake)
        invariants.complete(config, lake)
        invariants.tidy(lake, calm, sealed=False)
        calls = len(stub.calls)
        runs.finish()
    assert len(stub.calls) == calls, "a finished shard is a no-op"
    assert invariants.contents(config, lake) == undisturbed
    invariants.tidy(lake, calm)


def test_files_that_are_sealed_away_one_by_one_do_not_end_a_read(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    lake, bound, shard = Lake(config.lake), bound_of(config)["scene_count"], Shard("demo", 0)
    folder = layout.captions_folder(bound.name, bound.fingerprint, shard)
    writer = rows.PartWriter(lake, "run")
    for number in range(40):
        writer.write([rows.Part(bound, shard, [{"media_id": f"{number:064x}"}])])
    parts = lake.list(folder)
    rows.seal(lake, bound, shard, "run")
    for name in parts:  # as they stand while they are removed
        lake.write(f"{folder}/{name}", lake.read(f"{folder}/{lake.list(folder)[-1]}"))
    listing = Lake.list

    def list_and_remove(self: Lake, path: str) -> list[str]:
        names = listing(self, path)
        if left := [name for name in names if name in parts]:
            self.remove(f"{path}/{left[-1]}")
        return names

    monkeypatch.setattr(Lake, "list", list_and_remove)
    assert len(rows.read_rows(lake, bound, shard, [])) == 40


def test_runs_that_seal_at_once_lose_nothing_and_views_are_made_meanwhile(
    make_config: MakeConfig, stub: StubServer
) -> None:
    config = make_config(engines=engines(stub))
    with Runs(config) as runs:
        runs.finish()
    lake, started = Lake(config.lake), FORKS.Event()
    before = invariants.contents(config, lake)
    sealing = [FORKS.Process(target=reseal, args=(str(config.file), started)) for _ in range(2)]
    for process in sealing:
        process.start()
    try:
        assert started.wait(60)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            refresh(config, lake)
            open_views(config).close()
        assert [process.exitcode for process in sealing] == [None, None]
    finally:
        for process in sealing:
            process.kill()
            process.join()
    assert invariants.contents(config, lake) == before
    invariants.hold(config, lake)
