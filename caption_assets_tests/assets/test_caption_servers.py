"""`caption_job` over servers: what it cost stands in Dagster and in the lake."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiohttp import web

from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets_tests.assets.running import Pipeline
from caption_assets_tests.engine.stub_server import MODEL, Call, StubServer, completion, schema_of, well
from caption_assets_tests.support import bound_of


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


def test_a_settled_reader_starts_over_when_its_input_says_something_else(
    make_config: Callable[..., PipelineConfig],
) -> None:
    def fields(call: Call) -> set[str]:
        return set((schema_of(call) or {}).get("properties", {}))

    def synthesis(call: Call) -> bool:
        return fields(call) == {"caption", "tags", "count"}

    async def no_synthesis(call: Call) -> web.StreamResponse | None:
        message = {"role": "assistant", "content": '{"caption": 3}'}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response(completion(call, choices=choices)) if synthesis(call) else None

    async def another_count(call: Call) -> web.StreamResponse | None:
        message = {"role": "assistant", "content": '{"count": 7, "background": "another"}'}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response(completion(call, choices=choices)) if fields(call) == {"count", "background"} else None

    with StubServer(no_synthesis) as server:
        pool = {"kind": "openai", "model": MODEL, "servers": [server.url]}
        pipeline = Pipeline.of(make_config(engines={"default": pool}))
        pipeline.ingest()
        pipeline.caption("demo-000000")
        lake, bound = Lake(pipeline.config.lake), bound_of(pipeline.config)["scene_count"]
        folder = layout.captions_folder("scene_count", bound.fingerprint, Shard.parse("demo-000000"))
        failed = read_failures(lake, "synthesized_caption", Shard.parse("demo-000000"))
        assert {(row["kind"], row["retryable"]) for row in failed} == {("schema", False)}

        asked = len(server.calls)
        assert pipeline.caption("demo-000000").success
        assert len(server.calls) == asked, "settled"

        server.behave = well
        lake.remove_folder(folder)
        assert pipeline.caption("demo-000000").success
        assert sum(map(synthesis, server.calls[asked:])) == 0, "the count is asked again and is the same: still settled"

        server.behave = another_count
        lake.remove_folder(folder)
        outcome = pipeline.caption("demo-000000")
    assert outcome.success, outcome.failures
    assert outcome.of("captions/synthesized_caption", "demo-000000").metadata["new"] == 8
    assert read_failures(lake, "synthesized_caption", Shard.parse("demo-000000")) == []
