"""The `alerts` section: absent it is nothing, and mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets_tests.assets.running import write_config


def load(folder: Path, **sections: Any) -> PipelineConfig:
    """A pipeline file over the dataset `street`."""
    (folder / "pictures").mkdir(exist_ok=True)
    return write_config(folder, {"street": {"path": "pictures"}}, **sections)


def test_without_it_nothing_is_watched(tmp_path: Path) -> None:
    assert load(tmp_path).alerts is None


def test_only_the_breaker_is_watched_without_a_limit(tmp_path: Path) -> None:
    alerts = load(tmp_path, alerts={}).alerts
    assert alerts is not None
    assert (alerts.arrivals, alerts.failure_share, alerts.breaker, alerts.queue_minutes) == ({}, None, True, None)


def test_all_options(tmp_path: Path) -> None:
    limits = {"failure_share": 0.05, "min_pictures": 3, "breaker": False, "queue_minutes": 60}
    alerts = load(tmp_path, alerts={"arrivals": {"street": {"within_hours": 24}}, **limits}).alerts
    assert alerts is not None
    assert alerts.arrivals["street"].within_hours == 24
    assert alerts.failure_share == 0.05


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        (
            {"arrivals": {"steet": {"within_hours": 1}}},
            "alerts: arrivals: there is no dataset 'steet'; the datasets",
        ),
        ({"arrivals": {"street": {}}}, "alerts.arrivals.street.within_hours: is missing; add it"),
        ({"arrivals": {"street": {"within_hours": 0}}}, "alerts.arrivals.street.within_hours: must be greater than"),
        ({"failure_share": 1.5}, "alerts.failure_share: must be less than 1"),
        ({"queue_minute": 1}, "alerts.queue_minute: unknown key; did you mean 'queue_minutes'?"),
    ],
)
def test_mistakes(tmp_path: Path, alerts: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, alerts=alerts)
    assert f"{tmp_path / 'pipeline.yaml'}: {expected}" in str(caught.value)
