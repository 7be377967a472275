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


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_instants_change_nothing(make_config: MakeConfig, stub: StubServer, seed: int) -> None:
    chance = random.Random(seed)
    config = make_config(engines=engines(stub), lake="./undisturbed")
    with Runs(config) as runs:
        span = runs.finish()
    calm = Lake(config.lake)
    undisturbed = invariants.contents(config, calm)
    assert len(undisturbed) == 24 + 4 * 24

    kills = lives = 0
    while kills < 8:  # three seeds: 24 instants
        config = make_config(engines=engines(stub), lake=f"./life{lives}")
        kills += live(config, chance, span)
        lives += 1
        span *= 0.9  # on a machine that was busy at first, most kills would come too late
        lake = Lake(config.lake)
        assert invariants.contents(config, lake) == undisturbed
        invariants.hold(config, lake)
        invariants.complete(config, lake)
        invariants.tidy(lake, calm)
    print(f"{kills} kills in {lives} lives")


def live(config: PipelineConfig, chance: random.Random, span: float) -> int:
    """Run and kill within `span` seconds until a run comes to its end; returns the number of kills."""
    lake, kills, kept = Lake(config.lake), 0, dict[tuple[str, ...], dict[str, Any]]()
    with Runs(config) as runs:
        while runs.kill(chance.uniform(0, span)):
            kills += 1
            now = stored(config, lake)
            assert {key: now.get(key) for key in kept} == kept, "what was written is kept, not computed again"
            kept = now
    assert stored(config, lake).items() >= kept.items()
    return kills
