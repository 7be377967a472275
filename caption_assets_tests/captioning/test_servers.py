"""Servers attack a whole run; afterwards the lake holds what an undisturbed run leaves, keys and outputs alike."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from caption_assets.captioning import rows
from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import EngineFailure
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets_tests.engine.stub_server import MODEL, Behaviour, Call, StubServer, completion, well
from caption_assets_tests.support import bound_of, caption, ingest

MakeConfig = Callable[..., PipelineConfig]
KEY = "sk-very-secret-0123456789"
_VARIABLE = "CAPTION_ASSETS_TEST_KEY"


def servers(*urls: str, **options: Any) -> dict[str, Any]:
    """The engines of a pipeline file over these servers."""
    pool = {"kind": "openai", "model": MODEL, "servers": list(urls), "api_key": {"env": _VARIABLE}}
    return {"default": pool | {"max_in_flight": 8} | options}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_VARIABLE, KEY)


def stored(config: PipelineConfig, lake: Lake, shards: list[Shard]) -> dict[tuple[str, str], tuple[Any, str]]:
    """Outputs and digests of all rows, by perspective and picture."""
    return {
        (name, media_id): (row["output"], row["output_digest"])
        for name, bound in bound_of(config).items()
        for shard in shards
        for media_id, row in rows.read_rows(lake, bound, shard).items()
    }


Misdeed = Callable[[Call], Awaitable[web.StreamResponse]]


def sometimes(misdeed: Misdeed) -> Behaviour:
    """Every third request meets the misdeed, its repetition may again."""

    async def behave(call: Call) -> web.StreamResponse | None:
        return await misdeed(call) if call.number % 3 == 1 else None

    return behave


async def reset(call: Call) -> web.StreamResponse:
    """Cut the connection without a word."""
    assert call.http.transport is not None
    call.http.transport.abort()
    return web.Response()


async def stall(call: Call) -> web.StreamResponse:
    """Say nothing."""
    del call
    await asyncio.sleep(60)
    return web.Response()


async def busy(call: Call) -> web.StreamResponse:
    """Ask for a moment."""
    del call
    return web.Response(status=429, headers={"Retry-After": "0.05"}, text="slow down")


async def unavailable(call: Call) -> web.StreamResponse:
    """The same without saying how long, as a load balancer does."""
    del call
    return web.Response(status=503, headers={"Retry-After": "0"}, text="<html>Service Unavailable</html>")


async def error(call: Call) -> web.StreamResponse:
    """Fail."""
    del call
    return web.Response(status=500, text="Internal Server Error")


async def html(call: Call) -> web.StreamResponse:
    """Answer with a page."""
    del call
    return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")


async def half(call: Call) -> web.StreamResponse:
    """Answer with the first half of the JSON."""
    text = web.json_response(completion(call)).text or ""
    return web.Response(text=text[: len(text) // 2], content_type="application/json")


async def cut(call: Call) -> web.StreamResponse:
    """Promise more bytes than come."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(call.http)
    await response.write(b'{"choices": [')
    return await reset(call)


async def nothing(call: Call) -> web.StreamResponse:
    """Answer without choices."""
    return web.json_response(completion(call, choices=[]))


async def others(call: Call) -> web.StreamResponse:
    """Answer another request: the previous one's id, and an output that is wrong here."""
    nonce, _, number = call.headers["x-request-id"].rpartition("-")
    wrong = Call(call.number, call.body | {"messages": [{"content": [{"text": "other"}]}]}, {}, call.http, 0)
    return web.json_response(completion(wrong, id=f"chatcmpl-{nonce}-{int(number) - 1}"))


async def other_model(call: Call) -> web.StreamResponse:
    """Answer by another model."""
    wrong = Call(call.number, call.body | {"messages": [{"content": [{"text": "other"}]}]}, call.headers, call.http, 0)
    return web.json_response(completion(wrong, model="cheap/model"))


async def flood(call: Call) -> web.StreamResponse:
    """Send 10 MB without saying so first."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(call.http)
    for _ in range(160):
        await response.write(b" " * 65536)
    return response


MISDEEDS = [reset, stall, busy, unavailable, error, html, half, cut, nothing, others, other_model, flood]


@pytest.mark.parametrize("keeps", [0, 5], ids=["plain", "keeping"])
@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
def test_whatever_a_server_does_the_lake_ends_as_undisturbed(
    make_config: MakeConfig, misdeed: Misdeed, keeps: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with StubServer(keeps=keeps) as server:
        engines = servers(server.url, timeout_seconds=0.5)
        config = make_config(engines=engines, lake="./undisturbed")
        lake = Lake(config.lake)
        shards = ingest(config, lake)[:1]
        caption(config, lake, shards, open_engine)
        undisturbed = stored(config, lake, shards)
        assert len(undisturbed) == 4 * 8

        config = make_config(engines=engines)
        lake = Lake(config.lake)
        ingest(config, lake)
        server.calls.clear()
        server.behave = sometimes(misdeed)
        (report,) = caption(config, lake, shards, open_engine)
        calls = len(server.calls)
    assert calls > 4 * 8, "it was disturbed"
    assert stored(config, lake, shards) == undisturbed
    assert all(look.complete and not look.failed for look in report.looks.values())
    assert KEY not in caplog.text
    assert not any(KEY.encode() in file.read_bytes() for file in Path(lake.root).rglob("*") if file.is_file())


@pytest.mark.parametrize("away_seconds", [1.5, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_server_that_dies_and_returns_costs_nothing(make_config: MakeConfig, away_seconds: float) -> None:
    server = StubServer(latency=0.02)
    with server:
        engines = servers(server.url)
        config = make_config(engines=engines, lake="./undisturbed")
        lake = Lake(config.lake)
        shards = ingest(config, lake)
        caption(config, lake, shards, open_engine)
        undisturbed = stored(config, lake, shards)

        config = make_config(engines=engines)
        lake = Lake(config.lake)
        ingest(config, lake)
        server.calls.clear()
        reached = threading.Event()

        async def die_after_20(call: Call) -> web.StreamResponse | None:
            if call.number == 20:
                reached.set()
            return None

        server.behave = die_after_20

        def die_and_return() -> None:
            assert reached.wait(30)
            server.stop()
            threading.Event().wait(away_seconds)
            server.behave = well
            server.start()

        killer = threading.Thread(target=die_and_return)
        killer.start()
        reports = caption(config, lake, shards, open_engine)
        killer.join()
    assert stored(config, lake, shards) == undisturbed
    assert all(look.complete and not look.failed for report in reports for look in report.looks.values())


def test_a_refusal_is_asked_again_differently_and_then_a_failure(make_config: MakeConfig) -> None:
    async def refuse(call: Call) -> web.StreamResponse | None:
        if call.body["temperature"] == 0:
            return web.json_response(completion(call, choices=[{"message": {}, "finish_reason": "content_filter"}]))
        return None

    with StubServer(refuse) as server:
        config = make_config(engines=servers(server.url))
        lake = Lake(config.lake)
        first, second, _ = ingest(config, lake)
        (report,) = caption(config, lake, [first], open_engine, only=["scene_count"])
        assert report.looks["scene_count"].done == 8
        row = next(iter(rows.read_rows(lake, bound_of(config)["scene_count"], first).values()))
        assert row["attempts"] == 2

        async def always(call: Call) -> web.StreamResponse | None:
            return web.json_response(completion(call, choices=[{"message": {}, "finish_reason": "content_filter"}]))

        server.behave = always
        (report,) = caption(config, lake, [second], open_engine, only=["scene_count"], run_id="second")
    assert report.looks["scene_count"].failure_kinds == {"refusal": 8}
    assert {(row["kind"], row["attempts"]) for row in read_failures(lake, "scene_count", second)} == {("refusal", 3)}


def test_a_wrong_key_ends_the_run_and_stands_in_no_row(make_config: MakeConfig) -> None:
    async def refuse(call: Call) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401)

    with StubServer(refuse) as server:
        config = make_config(engines=servers(server.url))
        lake = Lake(config.lake)
        shards = ingest(config, lake)[:1]
        with pytest.raises(EngineFailure, match=r"bad key \[the key\]") as raised:
            caption(config, lake, shards, open_engine)
    assert raised.value.fatal
    assert KEY not in repr(raised.value)


def test_a_key_that_is_not_set_is_named(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_VARIABLE)
    config = make_config(engines=servers("http://127.0.0.1:9/v1"))
    with pytest.raises(ConfigError, match=f"engines.default.api_key: .* {_VARIABLE} is not set"):
        open_engine(config, "default").__enter__()


def test_unusable_tokens_are_paid_for_too(make_config: MakeConfig) -> None:
    async def nonsense(call: Call) -> web.StreamResponse | None:
        choices = [{"message": {"content": "Sorry?"}, "finish_reason": "stop"}]
        return web.json_response(completion(call, choices=choices)) if call.body["temperature"] == 0 else None

    with StubServer(nonsense) as server:
        config = make_config(engines=servers(server.url, prices={"prompt": 2, "completion": 30}))
        lake = Lake(config.lake)
        shards = ingest(config, lake)[:1]
        (report,) = caption(config, lake, shards, open_engine, only=["scene_count"])
    look = report.looks["scene_count"]
    assert look.cost is None
    engine = config.engines["default"]
    assert engine.kind == "openai"
    look.prices = engine.prices
    assert look.run_row("run", "me")["cost"] == pytest.approx(8 * 2 * (100 * 2 + 10 * 30) / 1e6)
