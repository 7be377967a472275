"""The in-process engine on the bundled model: replies, refusals, cancellation, structured output."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from PIL import Image

from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.engine.vllm_in_process import InProcessEngine
from caption_assets_tests.support import SharedEngine

_SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["count"],
    "additionalProperties": False,
}


def _request(name: str, text: str = "Count.", **changes: object) -> EngineRequest:
    values: dict[str, object] = {
        "request_id": name,
        "text": text,
        "image": Image.new("RGB", (120, 80), (200, 30, 30)),
        "image_id": "red",
        "json_schema": None,
        "max_tokens": 24,
    }
    return EngineRequest(**(values | changes))  # type: ignore[arg-type]


def test_concurrent_requests_are_all_answered(shared_engine: SharedEngine) -> None:
    async def ask() -> list[EngineReply]:
        return await asyncio.gather(*(shared_engine.generate(_request(f"many-{n}")) for n in range(150)))

    replies = asyncio.run(ask())
    assert len(replies) == 150
    assert all(each.completion_tokens > 0 and each.prompt_tokens > 64 for each in replies)
    assert sum(each.cached_tokens >= 64 for each in replies) >= 140, "the same picture is computed once"


def test_structured_output_follows_the_schema(shared_engine: SharedEngine) -> None:
    async def ask() -> EngineReply:
        return await shared_engine.generate(_request("schema", "Say anything at all.", json_schema=_SCHEMA))

    assert json.loads(asyncio.run(ask()).text)["count"] in range(10)


def test_text_only_requests_work(shared_engine: SharedEngine) -> None:
    async def ask() -> EngineReply:
        return await shared_engine.generate(_request("text", "Hello.", image=None, image_id=None))

    assert asyncio.run(ask()).prompt_tokens < 64


def test_a_prompt_longer_than_the_context_is_refused_for_good(shared_engine: SharedEngine) -> None:
    async def ask() -> EngineReply:
        return await shared_engine.generate(_request("long", "words and words " * 2000))

    with pytest.raises(EngineFailure) as raised:
        asyncio.run(ask())
    assert raised.value.kind == "too_long", raised.value
    assert not raised.value.retryable
    assert not raised.value.fatal


def test_an_impossible_schema_is_refused_and_harms_nobody(shared_engine: SharedEngine) -> None:
    async def ask() -> tuple[EngineReply | BaseException, EngineReply | BaseException]:
        bad = shared_engine.generate(_request("bad-schema", json_schema={"type": "nothing"}))
        fine = shared_engine.generate(_request("beside-it"))
        return (await asyncio.gather(bad, fine, return_exceptions=True))[:2]  # type: ignore[return-value]

    bad, fine = asyncio.run(ask())
    assert isinstance(bad, EngineFailure)
    assert not bad.fatal
    assert isinstance(fine, EngineReply)


def test_cancelling_a_request_aborts_it_and_the_engine_goes_on(shared_engine: SharedEngine) -> None:
    async def ask() -> EngineReply:
        doomed = [
            asyncio.create_task(shared_engine.generate(_request(f"doomed-{n}", max_tokens=700))) for n in range(8)
        ]
        await asyncio.sleep(0.05)
        for task in doomed:
            task.cancel()
        outcomes = await asyncio.gather(*doomed, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError | EngineReply) for outcome in outcomes)
        return await asyncio.wait_for(shared_engine.generate(_request("after")), timeout=60)

    assert asyncio.run(ask()).completion_tokens > 0


def test_requests_that_wait_for_room_are_answered_or_cancelled(shared_engine: SharedEngine) -> None:
    async def ask() -> list[EngineReply | BaseException]:
        early = [asyncio.create_task(shared_engine.generate(_request(f"early-{n}"))) for n in range(150)]
        await asyncio.wait(early, return_when=asyncio.FIRST_COMPLETED)
        late = [asyncio.create_task(shared_engine.generate(_request(f"late-{n}"))) for n in range(60)]
        await asyncio.sleep(0)  # they are on their way, and the engine has enough to do
        for task in late[::3]:
            task.cancel()
        return await asyncio.gather(*early, *late, return_exceptions=True)

    outcomes = asyncio.run(ask())
    late = outcomes[150:]
    assert all(isinstance(each, asyncio.CancelledError) for each in late[::3])
    assert all(isinstance(each, EngineReply) for each in outcomes[:150] + late[1::3] + late[2::3])


def test_a_lower_priority_number_goes_first(shared_engine: SharedEngine) -> None:
    order: list[str] = []

    async def ask(name: str, priority: int) -> None:
        await shared_engine.generate(_request(name, f"Count {name}.", image=None, image_id=None, priority=priority))
        order.append(name)

    async def everything() -> None:
        # three times what the engine runs at once
        waits = [asyncio.ensure_future(ask(f"waits-{n}", 1)) for n in range(192)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        began = len(order)
        first = [asyncio.ensure_future(ask(f"first-{n}", 0)) for n in range(32)]
        await asyncio.gather(*waits, *first)
        last = max(order.index(f"first-{n}") for n in range(32))
        assert last - began < 120, "those that came last, and go first, overtook most of those that wait"

    asyncio.run(everything())


def test_few_that_go_first_are_prepared_together_with_others(
    shared_engine: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each for itself between two steps of the model they would take longer."""
    busy: list[int] = []
    prepare = InProcessEngine._prepare

    def watched(self: InProcessEngine, engine: Any, params: Any, entry: Any) -> None:
        if entry.request.request_id.startswith("few"):
            busy.append(len(self._running))
        prepare(self, engine, params, entry)

    async def ask(name: str, priority: int) -> EngineReply:
        request = _request(name, f"Count {name}.", image=None, image_id=None, priority=priority)
        return await shared_engine.generate(request)

    async def everything() -> None:
        others = [asyncio.ensure_future(ask(f"others-{n}", 1)) for n in range(192)]
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*others, *(ask(f"few-{n}", 0) for n in range(8)))

    monkeypatch.setattr(InProcessEngine, "_prepare", watched)
    asyncio.run(everything())
    assert len(busy) == 8
    assert max(busy) <= 64 + 16 + 8
