"""Whose fault it was: servers that are of no use, requests that no server bears, and limits told by another name."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from caption_assets.engine.openai_engine import OpenAIServers
from caption_assets.engine.protocol import EngineFailure, EngineReply
from caption_assets_tests.engine.pools import ask_all, request, run, section, with_engine
from caption_assets_tests.engine.stub_server import Behaviour, Call, StubServer, completion


def refusing(status: int, message: str) -> Behaviour:
    """Always this error."""

    async def behave(call: Call) -> web.StreamResponse:
        del call
        return web.json_response({"error": {"message": message}}, status=status)

    return behave


def test_servers_that_are_of_no_use_are_dropped_with_a_reason_and_the_others_go_on() -> None:
    told: list[str] = []
    strange = StubServer(refusing(404, "The model `stub/model` does not exist."))
    closed = StubServer(refusing(401, "Incorrect API key provided."))
    with strange, closed, StubServer() as good:
        settings = section(strange, closed, good, max_in_flight=6)
        outcomes = run(with_engine(settings, lambda engine: ask_all(engine, 60), told=told))
        assert all(isinstance(one, EngineReply) for one in outcomes)
        assert sorted(told) == sorted(
            [
                f"server {strange.url} leaves the pool: {strange.url}: HTTP 404: "
                "The model `stub/model` does not exist.",
                f"server {closed.url} leaves the pool: {closed.url}: HTTP 401: Incorrect API key provided.",
            ]
        )
        assert len(strange.calls) + len(closed.calls) <= 4, "they were asked with what was under way at most"

        outcomes = run(with_engine(section(strange, closed), lambda engine: ask_all(engine, 9), told=told))
    assert all(isinstance(one, EngineFailure) and one.fatal for one in outcomes)
    assert "no server is usable" in str(outcomes[0])
    assert f"{strange.url}: HTTP 404" in str(outcomes[0])
    assert f"{closed.url}: HTTP 401" in str(outcomes[0])


def test_answers_that_are_under_way_when_the_last_server_is_lost_come_first() -> None:
    async def slow_then_closed(call: Call) -> web.StreamResponse | None:
        if call.number >= 3:
            return web.json_response({"error": {"message": "Incorrect API key provided."}}, status=401)
        await asyncio.sleep(0.4 + 0.1 * call.number)
        return None

    async def in_turn(engine: OpenAIServers) -> list[str]:
        ended: list[str] = []

        async def one(number: int) -> None:
            try:
                await engine.generate(request(number))
            except EngineFailure as error:
                ended.append("fatal" if error.fatal else "failure")
            else:
                ended.append("answer")

        await asyncio.gather(*(one(number) for number in range(8)))
        return ended

    with StubServer(slow_then_closed) as server:
        ended = run(with_engine(section(server, max_in_flight=8), in_turn))
        assert ended == ["answer"] * 3 + ["fatal"] * 5, "a failure that is fatal ends all others"
        assert len(server.calls) == 8


def test_a_request_that_no_server_bears_is_told_from_a_server_that_bears_none() -> None:
    async def poisoned(call: Call) -> web.StreamResponse | None:
        return web.Response(status=500, text="assertion failed") if "Question 7." in call.text else None

    async def beside_others(engine: OpenAIServers) -> EngineFailure:
        others = asyncio.ensure_future(ask_all(engine, 6))

        async def keep_asking() -> None:
            while True:
                await ask_all(engine, 3)

        busy = asyncio.ensure_future(keep_asking())
        try:
            await engine.generate(request(7))
        except EngineFailure as failure:
            await others
            return failure
        finally:
            busy.cancel()
        raise AssertionError("it was answered")

    async def alone(engine: OpenAIServers) -> list[EngineReply | BaseException]:
        return await ask_all(engine, 6)

    with StubServer(poisoned, latency=0.01) as server:
        assert run(with_engine(section(server, max_in_flight=4), beside_others)).own
        server.behave = refusing(500, "out of memory")
        outcomes = run(with_engine(section(server, max_in_flight=4), alone))
    assert all(isinstance(one, EngineFailure) and not one.own and not one.fatal for one in outcomes)


def said(call: Call, text: str) -> web.StreamResponse:
    """An answer with this text."""
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return web.json_response(completion(call, choices=choices))


@pytest.mark.parametrize("heeded", ["json_object", None])
def test_a_server_that_takes_no_notice_of_the_format_is_told_in_another_way(heeded: str | None) -> None:
    async def chat(call: Call) -> web.StreamResponse | None:
        asked = (call.body.get("response_format") or {}).get("type")
        if asked == heeded:
            return None
        return said(call, "Gladly! It is a circle.")

    async def one_by_one(engine: OpenAIServers) -> list[EngineReply]:
        return [await engine.generate(request(number)) for number in range(3)]

    with StubServer(chat) as server:
        replies = run(with_engine(section(server), one_by_one))
    forms = [(call.body.get("response_format") or {}).get("type") for call in server.calls]
    tried = ["json_schema", "json_object", None]
    assert forms == tried[: tried.index(heeded)] + [heeded] * 3
    assert all(set(json.loads(reply.text)) == {"n"} for reply in replies)


def test_a_server_that_has_shown_that_it_takes_schemas_is_not_told_otherwise() -> None:
    async def chat_at_times(call: Call) -> web.StreamResponse | None:
        if call.number % 2 == 0:
            return None
        return said(call, "I would rather not.")

    async def one_by_one(engine: OpenAIServers) -> list[str]:
        return [(await engine.generate(request(number))).text for number in range(4)]

    with StubServer(chat_at_times) as server:
        texts = run(with_engine(section(server), one_by_one))
    assert texts[1] == texts[3] == "I would rather not.", "the ladder's business"
    assert {call.body["response_format"]["type"] for call in server.calls} == {"json_schema"}


def test_a_server_that_wants_max_completion_tokens_gets_it_and_is_remembered() -> None:
    async def behave(call: Call) -> web.StreamResponse | None:
        if "max_tokens" not in call.body:
            return None
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return web.json_response({"error": {"message": message, "code": "unsupported_parameter"}}, status=400)

    async def one_by_one(engine: OpenAIServers) -> list[EngineReply]:
        return [await engine.generate(request(number)) for number in range(3)]

    with StubServer(behave) as server:
        replies = run(with_engine(section(server), one_by_one))
    assert len(replies) == 3
    asked = [("max_tokens" in call.body, call.body.get("max_completion_tokens")) for call in server.calls]
    assert asked == [(True, None), *[(False, 20)] * 3]


def test_a_server_that_insists_is_not_asked_forever() -> None:
    async def use(engine: OpenAIServers) -> EngineReply | BaseException:
        return (await ask_all(engine, 1))[0]

    with StubServer(refusing(400, "'max_completion_tokens' is not supported, use 'max_tokens' instead")) as server:
        outcome = run(with_engine(section(server), use))
    assert isinstance(outcome, EngineFailure)
    assert outcome.kind == "prompt"
    assert len(server.calls) == 2
