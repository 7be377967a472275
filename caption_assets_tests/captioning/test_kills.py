"""Killed at random instants, again and again: the lake ends as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards
from caption_assets_tests import invariants
from caption_assets_tests.captioning.processes import Runs, engines
from caption_assets_tests.engine.stub_server import StubServer
from caption_assets_tests.support import bound_of

MakeConfig = Callable[..., PipelineConfig]


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer(latency=0.01) as server:
        yield server


def stored(config: PipelineConfig, lake: Lake) -> dict[tuple[str, ...], dict[str, Any]]:
    """All caption rows as they are, with who made them and when."""
    return {
        (name, shard.key, media_id): row
        for shard in planned_shards(lake, "demo")
        for name, bound in bound_of(config).items()
        for media_id, row in rows.read_rows(lake, bound, shard).items()
    }


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_kills_at_random_instants_change_nothing(make_config: MakeConfig, stub: StubServer, seed: int) -> None:
    chance = random.Random(seed)
    span = undisturbed(make_config, stub)

    def kill(runs: Runs) -> bool:
        nonlocal span
        killed = runs.killed_after(chance.uniform(0, span))
        if not killed:
            span *= 0.9  # on a machine that was busy at first, most kills would come too late
        return killed

    attack(make_config, stub, kill, 10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_files_change_nothing(make_config: MakeConfig, stub: StubServer, seed: int) -> None:
    """Instants that a clock would seldom hit: just before a file is there, or is not."""
    chance = random.Random(seed)
    undisturbed(make_config, stub)
    attack(make_config, stub, lambda runs: runs.killed_at(chance.randint(1, 100)), 12)


def undisturbed(make_config: MakeConfig, stub: StubServer) -> float:
    """Make the lake that all others must equal; returns seconds."""
    config = make_config(engines=engines(stub), lake="./undisturbed")
    with Runs(config) as runs:
        seconds = runs.finish()
    assert len(invariants.contents(config, Lake(config.lake))) == 24 + 4 * 24
    return seconds


def attack(make_config: MakeConfig, stub: StubServer, kill: Callable[[Runs], bool], enough: int) -> None:
    """Run and kill, lake after lake, until there were enough kills; each lake ends as the undisturbed one."""
    config = make_config(engines=engines(stub), lake="./undisturbed")
    calm = Lake(config.lake)
    expected = invariants.contents(config, calm)
    kills = lives = 0
    while kills < enough:
        config = make_config(engines=engines(stub), lake=f"./life{lives}")
        kills += live(config, kill)
        lives += 1
        lake = Lake(config.lake)
        assert invariants.contents(config, lake) == expected
        invariants.hold(config, lake)
        invariants.complete(config, lake)
        invariants.tidy(lake, calm)
    print(f"{kills} kills in {lives} lives")


def live(config: PipelineConfig, kill: Callable[[Runs], bool]) -> int:
    """Run and kill until a run comes to its end; returns the number of kills."""
    lake, kills, kept = Lake(config.lake), 0, dict[tuple[str, ...], dict[str, Any]]()
    with Runs(config) as runs:
        while kill(runs):
            kills += 1
            now = stored(config, lake)
            assert {key: now.get(key) for key in kept} == kept, "what was written is kept, not computed again"
            kept = now
    assert stored(config, lake).items() >= kept.items()
    return kills
