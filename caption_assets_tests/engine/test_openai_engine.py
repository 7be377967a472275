"""The engine over servers: its requests, its routing, its limits, and what it makes of bad answers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from caption_assets.engine.openai_engine import OpenAIServers
from caption_assets.engine.openai_limits import AdaptiveLimit, TokenBucket
from caption_assets.engine.openai_reply import retry_after_seconds
from caption_assets.engine.protocol import EngineFailure, EngineReply
from caption_assets_tests.engine.pools import SCHEMA, ask_all, request, run, section, with_engine
from caption_assets_tests.engine.stub_server import Behaviour, Call, StubServer, completion

KEY = "sk-very-secret-0123456789"


def picture_file(kind: str = "jpeg") -> bytes:
    """A small picture's file."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def sent_picture(call: Call) -> bytes:
    """The picture's file as the server got it."""
    first = call.body["messages"][0]["content"][0]
    assert first["type"] == "image_url"
    return base64.b64decode(first["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))


def test_the_wire_format_is_openais_with_the_picture_first() -> None:
    stored, text = picture_file(), 'Say "ä\n\\"?'
    asked = request(text=text, image_file=stored, image_id="a", temperature=0.5, top_p=0.9, top_k=3, seed=7)
    with StubServer() as server:
        settings = section(server, extra_body={"chat_template_kwargs": {"x": 1}})
        reply = run(with_engine(settings, lambda engine: engine.generate(asked), key=KEY))
    (call,) = server.calls
    assert sent_picture(call) == stored, "as stored"
    assert call.body.pop("messages")[0]["content"][1:] == [{"type": "text", "text": text}]
    assert call.body == {
        "model": "stub/model",
        "max_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 7,
        "chat_template_kwargs": {"x": 1},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "caption", "strict": True, "schema": SCHEMA},
        },
    }
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(reply.text)["n"] >= 0
    assert (reply.finish_reason, reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens) == (
        "stop",
        100,
        60,
        10,
    )


def test_a_picture_in_another_format_is_encoded_once_for_all_who_ask() -> None:
    stored = picture_file("png")

    async def use(engine: OpenAIServers) -> list[EngineReply | BaseException]:
        return await ask_all(engine, 6, image_file=stored, image_id="a")

    with StubServer() as server:
        run(with_engine(section(server), use))
    pictures = {sent_picture(call) for call in server.calls}
    assert len(server.calls) == 6
    (sent,) = pictures
    assert Image.open(io.BytesIO(sent)).format == "JPEG"


def answers(document: Any) -> Behaviour:
    """Always this JSON."""

    async def behave(call: Call) -> web.StreamResponse:
        del call
        return web.json_response(document)

    return behave


def choice(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A completion with one choice."""
    return {"model": "stub/model", "choices": [{"message": message, "finish_reason": finish_reason}]}


def status(code: int, document: Any) -> Behaviour:
    """Always this status."""

    async def behave(call: Call) -> web.StreamResponse:
        del call
        return web.json_response(document, status=code)

    return behave


@pytest.mark.parametrize(
    ("behave", "kind", "retryable", "told"),
    [
        (answers(choice("content_filter", content=None)), "refusal", False, "content_filter"),
        (answers(choice(content=None, refusal="I cannot.")), "refusal", False, "I cannot"),
        (status(400, {"error": {"message": "blocked by content_filter"}}), "refusal", False, "HTTP 400"),
        (status(400, {"error": {"message": "the image is broken"}}), "prompt", False, "the image is broken"),
        (status(400, {"message": "maximum context length is 512"}), "too_long", False, "maximum context length"),
        (status(413, {}), "too_long", False, "HTTP 413"),
        (answers({"choices": []}), "engine", True, "no choices"),
        (answers({"choices": [{"message": {"role": "assistant"}}]}), "engine", True, "no content"),
        (answers({"choices": [{}]}), "engine", True, "no message"),
        (answers({"error": {"message": "overheated"}}), "engine", True, "overheated"),
        (answers([1]), "engine", True, "not an object"),
        (status(500, {"error": "boom"}), "engine", True, "boom"),
    ],
)
def test_what_a_bad_answer_means(behave: Behaviour, kind: str, retryable: bool, told: str) -> None:
    async def use(engine: OpenAIServers) -> EngineFailure:
        with pytest.raises(EngineFailure) as raised:
            await engine.generate(request())
        return raised.value

    with StubServer(behave) as server:
        failure = run(with_engine(section(server), use))
    assert (failure.kind, failure.retryable, failure.fatal) == (kind, retryable, False)
    assert told in str(failure)


def test_truncated_and_empty_answers_are_replies() -> None:
    with StubServer(answers(choice("length", content='{"n": 1'))) as server:
        reply = run(with_engine(section(server), lambda engine: engine.generate(request())))
        assert (reply.text, reply.finish_reason, reply.prompt_tokens) == ('{"n": 1', "length", 0)
        server.behave = answers(choice(content=None))
        assert run(with_engine(section(server), lambda engine: engine.generate(request()))).text == ""


def test_a_server_without_json_schema_gets_json_object_then_words_and_is_remembered() -> None:
    def takes(*forms: str | None) -> Behaviour:
        async def behave(call: Call) -> web.StreamResponse | None:
            if (call.body.get("response_format") or {}).get("type") in forms:
                return None
            return web.json_response({"error": {"message": "invalid request"}}, status=400)

        return behave

    async def one_by_one(engine: OpenAIServers) -> list[EngineReply]:
        return [await engine.generate(request(number)) for number in range(4)]

    for forms, expected in (
        ((None,), ["json_schema", "json_object", None, None, None, None]),
        (("json_object",), ["json_schema", *["json_object"] * 4]),
        (("json_schema",), ["json_schema"] * 4),
    ):
        with StubServer(takes(*forms)) as server:
            replies = run(with_engine(section(server), one_by_one))
        asked = [(call.body.get("response_format") or {}).get("type") for call in server.calls]
        assert asked == expected
        assert all(set(json.loads(reply.text)) == {"n"} for reply in replies)
        assert all(("JSON Schema:" in call.text) == (form != "json_schema") for call, form in zip(server.calls, asked))


def test_a_slow_server_gets_less_and_limits_hold() -> None:
    with StubServer(latency=0.01) as fast, StubServer(latency=0.15) as slow:
        replies = run(with_engine(section(fast, slow, max_in_flight=16), lambda engine: ask_all(engine, 300)))
    assert all(isinstance(reply, EngineReply) for reply in replies)
    assert len(fast.calls) > 3 * len(slow.calls) > 0
    assert fast.most <= 16
    assert slow.most <= 8


def test_a_dead_server_leaves_and_returns() -> None:
    told: list[str] = []
    stable, flaky = StubServer(latency=0.01), StubServer(latency=0.01)
    with stable, flaky:
        settings = section(stable, flaky, max_in_flight=8)

        async def use(engine: OpenAIServers) -> None:
            assert not any(isinstance(one, BaseException) for one in await ask_all(engine, 40))
            assert flaky.calls
            await asyncio.to_thread(flaky.stop)
            assert not any(isinstance(one, BaseException) for one in await ask_all(engine, 60))
            assert [each.away is None for each in engine.servers] == [True, False]
            before = len(flaky.calls)
            await asyncio.to_thread(flaky.start)
            while any(each.away for each in engine.servers):
                await asyncio.sleep(0.02)
            assert not any(isinstance(one, BaseException) for one in await ask_all(engine, 60))
            assert len(flaky.calls) > before

        run(with_engine(settings, use, told=told))
    assert [("leaves the pool" in line, "is back" in line) for line in told] == [(True, False), (False, True)]


def test_all_servers_away_for_too_long_is_the_end() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"

        async def use(engine: OpenAIServers) -> list[EngineReply | BaseException]:
            return await ask_all(engine, 20)

        outcomes = run(with_engine(section(url, give_up_seconds=0.5), use))
    assert all(isinstance(one, EngineFailure) and one.fatal for one in outcomes)
    assert "all servers have been away for 0.5 s" in str(outcomes[0])


def test_a_closed_engine_says_so() -> None:
    async def use(engine: OpenAIServers) -> EngineFailure:
        await engine.generate(request())
        engine.close()
        with pytest.raises(EngineFailure, match="closed") as raised:
            await engine.generate(request())
        return raised.value

    with StubServer() as server:
        assert run(with_engine(section(server), use)).fatal


def test_a_refused_key_ends_the_run_at_once_and_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    async def behave(call: Call) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"bad key: {call.headers['authorization']}"}}, status=401)

    told: list[str] = []
    with StubServer(behave) as server, caplog.at_level(logging.DEBUG):
        outcomes = run(with_engine(section(server), lambda engine: ask_all(engine, 3), key=KEY, told=told))
    assert all(isinstance(one, EngineFailure) and one.fatal for one in outcomes)
    assert "bad key" in str(outcomes[0])
    assert KEY not in "".join([*map(repr, outcomes), *told, caplog.text])


def test_too_many_requests_halve_the_load_and_retry_after_is_honoured() -> None:
    async def behave(call: Call) -> web.StreamResponse | None:
        if 20 <= call.number < 24:
            return web.Response(status=429, headers={"Retry-After": "0.5"}, text="slow down")
        return None

    async def use(engine: OpenAIServers) -> int:
        outcomes = await ask_all(engine, 100)
        assert all(isinstance(one, EngineReply) for one in outcomes)
        return engine.servers[0].limit.value

    with StubServer(behave, latency=0.02) as server:
        limit = run(with_engine(section(server, max_in_flight=16), use))
    assert 8 <= limit < 16
    gap = max(after - before for before, after in zip(server.times, server.times[1:]))
    assert gap >= 0.45, "the server was left alone for as long as it had asked"


def test_the_concurrency_limit_grows_only_while_latency_holds() -> None:
    limit = AdaptiveLimit(4, 32)
    for _ in range(200):
        limit.answered(0.1)
    grown = limit.value
    assert 15 <= grown <= 32
    for _ in range(20):
        limit.answered(1.0)
    held = limit.value
    for _ in range(50):
        limit.answered(1.0)
    assert limit.value == held, "latency does not hold"
    limit.overloaded(started=1.0, now=2.0)
    limit.overloaded(started=1.5, now=2.1)
    assert limit.value == held // 2, "once for all that were under way together"


def test_rate_limits_hold() -> None:
    async def use(engine: OpenAIServers) -> None:
        outcomes = await ask_all(engine, 30)
        assert all(isinstance(one, EngineReply) for one in outcomes)

    with StubServer() as server:
        run(with_engine(section(server, requests_per_minute=1200), use))
    spread = server.times[-1] - server.times[0]
    assert spread >= (30 - 20 - 1) / 20, "a burst of one second's worth, then evenly"


def test_tokens_are_counted_as_used_not_as_guessed() -> None:
    async def use() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(60_000)
        started = loop.time()
        await bucket.take(1000)
        await bucket.take(200)
        first = loop.time() - started
        bucket.settle(200, 0)
        await bucket.take(100)
        return first, loop.time() - started

    first, second = run(use())
    assert 0.19 <= first < 1.0
    assert second - first < 0.15


def test_another_requests_answer_is_refused() -> None:
    previous: list[Call] = []

    async def behave(call: Call) -> web.StreamResponse | None:
        previous.append(call)
        if call.number % 2 and len(previous) > 1:
            return web.json_response(completion(previous[-2]))
        return None

    async def use(engine: OpenAIServers) -> list[EngineReply]:
        return [await engine.generate(request(number)) for number in range(4)]

    with StubServer() as server:
        undisturbed = run(with_engine(section(server), use))
    with StubServer(behave) as server:
        assert run(with_engine(section(server), use)) == undisturbed
    assert len(server.calls) > 4


def test_a_stalled_server_costs_a_timeout_not_the_run() -> None:
    async def behave(call: Call) -> web.StreamResponse | None:
        if call.number == 0:
            await asyncio.sleep(30)
        return None

    started = time.monotonic()
    with StubServer(behave) as server:
        outcomes = run(with_engine(section(server, timeout_seconds=0.3), lambda engine: ask_all(engine, 4)))
    assert all(isinstance(one, EngineReply) for one in outcomes)
    assert time.monotonic() - started < 15


def test_pictures_go_where_they_are_known() -> None:
    stored = picture_file()

    async def use(engine: OpenAIServers) -> None:
        for number in range(24):
            await engine.generate(request(number, image_file=stored, image_id=f"picture {number % 6}"))

    servers = StubServer(), StubServer()
    with servers[0], servers[1]:
        run(with_engine(section(*servers), use))
    asked = [Counter(int(call.text.split()[1].rstrip(".")) % 6 for call in server.calls) for server in servers]
    assert not asked[0].keys() & asked[1].keys()


@pytest.mark.parametrize(("header", "low", "high"), [("3", 3, 3), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0)])
def test_retry_after_is_a_number_or_a_date(header: str, low: float, high: float) -> None:
    assert low <= (retry_after_seconds(header) or 0) <= high
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds(None) is None
