"""The section `recaption` of the pipeline file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from caption_assets.config import ConfigError, PipelineConfig

POOL = {"kind": "openai", "model": "m", "servers": ["http://127.0.0.1:9/v1"]}


def test_nothing_is_captioned_again_unless_asked_for(make_config: Callable[..., PipelineConfig]) -> None:
    recaption = make_config().recaption
    assert recaption.policies == {"off"}
    assert recaption.pictures_per_day == 10_000
    assert recaption.repairs.enabled


def test_a_perspective_has_what_differs(make_config: Callable[..., PipelineConfig]) -> None:
    own = {"scene_count": {"policy": "all", "pictures_per_day": 5}, "scene_objects": {"pictures_per_day": 6}}
    recaption = make_config(recaption={"policy": "new_only", "perspectives": own}).recaption
    assert recaption.policies == {"new_only", "all"}
    names = ("scene_caption", "scene_count", "scene_objects")
    assert [recaption.policy_of(name) for name in names] == ["new_only", "all", "new_only"]
    assert [recaption.limit_of(name) for name in names] == [None, 5, 6]


def test_a_cost_limit_needs_prices(make_config: Callable[..., PipelineConfig]) -> None:
    with pytest.raises(ConfigError, match="recaption: cost_per_day: no engine has prices"):
        make_config(recaption={"cost_per_day": 5})
    with pytest.raises(ConfigError, match="cost_per_day: no engine has prices"):
        make_config(recaption={"cost_per_day": 5}, engines={"default": POOL})
    priced = {**POOL, "prices": {"prompt": 1.0}}
    assert make_config(recaption={"cost_per_day": 5}, engines={"default": priced}).recaption.cost_per_day == 5


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"policy": "none"}, r"recaption\.policy: must be one of 'off', 'new_only', 'all', not 'none'"),
        ({"pictures_per_day": 0}, r"recaption\.pictures_per_day: must be greater than or equal to 1, not 0"),
        ({"shards_per_run": 51}, r"recaption\.shards_per_run: must be less than or equal to 50"),
        ({"polcy": "all"}, r"recaption\.polcy: unknown key; did you mean 'policy'\?"),
        (
            {"repairs": {"pause": 1}},
            r"recaption\.repairs\.pause: unknown key; the keys here are 'enabled', 'pause_minutes'",
        ),
        (
            {"perspectives": {"scene": {}}},
            r"recaption: perspectives: 'scene' is not enabled; enabled are 'scene_caption'",
        ),
    ],
)
def test_mistakes_are_named(make_config: Callable[..., PipelineConfig], section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(recaption=section)
