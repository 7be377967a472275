"""Engines over stub servers, for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from caption_assets.config import OpenAIEngine
from caption_assets.engine.openai_engine import OpenAIServers
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets_tests.engine.stub_server import MODEL, StubServer

T = TypeVar("T")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def section(*servers: StubServer | str, **options: Any) -> OpenAIEngine:
    """An engine's section over these servers."""
    urls = [each if isinstance(each, str) else each.url for each in servers]
    return OpenAIEngine.model_validate({"kind": "openai", "model": MODEL, "servers": urls, **options})


def request(number: int = 0, **changes: Any) -> EngineRequest:
    """A request without a picture."""
    fields: dict[str, Any] = {
        "text": f"Question {number}.",
        "image": None,
        "image_id": None,
        "json_schema": SCHEMA,
        "max_tokens": 20,
    }
    return EngineRequest(request_id=f"r{number}", **(fields | changes))


async def with_engine(
    settings: OpenAIEngine,
    use: Callable[[OpenAIServers], Awaitable[T]],
    *,
    key: str | None = None,
    told: list[str] | None = None,
) -> T:
    """Use an engine in this loop, and close it."""
    engine = OpenAIServers(settings, key, tell=(told if told is not None else []).append)
    try:
        return await use(engine)
    finally:
        engine.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within a minute."""

    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await coroutine

    return asyncio.run(bounded())


async def ask_all(engine: OpenAIServers, count: int, **changes: Any) -> list[EngineReply | BaseException]:
    """The outcomes of so many different requests at once."""
    asked = (engine.generate(request(number, **changes)) for number in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)
