"""`caption_job` over servers: what it cost stands in Dagster and in the lake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets_tests.assets.running import Pipeline
from caption_assets_tests.engine.stub_server import MODEL, StubServer


def test_the_cost_of_a_run_is_on_record(make_config: Callable[..., PipelineConfig]) -> None:
    with StubServer() as server:
        pool = {"kind": "openai", "model": MODEL, "servers": [server.url]}
        pipeline = Pipeline.of(make_config(engines={"default": pool | {"prices": {"prompt": 2, "completion": 30}}}))
        pipeline.ingest()
        outcome = pipeline.caption("demo-000000")
    assert outcome.success, outcome.failures
    each = (100 * 2 + 10 * 30) / 1e6
    metadata = outcome.of("captions/scene_count", "demo-000000").metadata
    assert metadata["cost"] == pytest.approx(8 * each)
    assert metadata["cost per 1,000 pictures"] == pytest.approx(1000 * each)
    assert server.url not in str(metadata)
    with open_views(pipeline.config) as views:
        (cost,) = views.execute("SELECT sum(cost) FROM runs WHERE step = 'captions'").fetchone() or (None,)
    assert cost == pytest.approx(4 * 8 * each)
