"""Engines of the benchmarks: one that lives in a loop of its own, and one that keeps time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from caption_assets.config import PipelineConfig
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import Engine, EngineReply, EngineRequest, wait_for_core
from caption_assets.engine.vllm_in_process import InProcessEngine
from caption_assets_tests.engine.stub_server import instance

Result = TypeVar("Result")


def plain(request: EngineRequest, tokens: int | None) -> EngineRequest:
    """The request as it is, or for so many tokens of plain text."""
    return request if tokens is None else replace(request, json_schema=None, max_tokens=tokens)


@dataclass
class LoopEngine:
    """An engine that several event loops may use one after the other, though it may be bound to the first.

    vLLM's asynchronous engine is, and each run of the op has a loop of its own; so it gets one that outlives them.
    """

    engine: Engine
    loop: asyncio.AbstractEventLoop

    def __post_init__(self) -> None:
        self.max_in_flight, self.load_seconds = self.engine.max_in_flight, self.engine.load_seconds
        self._anywhere = isinstance(self.engine, InProcessEngine)

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, from any loop."""
        if self._anywhere:
            return await self.engine.generate(request)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.engine.generate(request), self.loop))

    def wait_for_core(self) -> None:
        """As the engine has it."""
        wait_for_core(self.engine)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something in the engine's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """Leave it to who opened it."""


@contextmanager
def in_a_loop(config: PipelineConfig) -> Iterator[LoopEngine]:
    """The default engine, open, beside a loop that runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="engine loop", daemon=True)
    thread.start()
    try:
        with open_engine(config, "default") as engine:
            yield LoopEngine(engine, loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@dataclass
class MeteredEngine:
    """Passes requests on, under picture names of its own so that no run finds another's cache, and keeps time.

    With `tokens` it asks for plain text of that length, and replies with something valid.
    """

    engine: Engine
    salt: str
    tokens: int | None = None
    load_seconds: float = 0.0
    max_in_flight: int = 0
    first: float = 0.0
    answered: float = 0.0
    idle: float = 0.0
    ended: float = 0.0
    requests: list[EngineRequest] = field(default_factory=list)
    _open: int = 0
    _empty_since: float = 0.0

    def __post_init__(self) -> None:
        self.max_in_flight = self.engine.max_in_flight

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request."""
        now = time.perf_counter()
        self.first = self.first or now
        if self._open == 0 and self.answered:
            self.idle += now - self._empty_since
        self._open += 1
        self.requests.append(replace(request, image=None))  # nobody holds the pixels any longer than the op does
        own = None if request.image_id is None else f"{self.salt}-{request.image_id}"
        sent = replace(request, request_id=f"{self.salt}-{request.request_id}", image_id=own)
        try:
            reply = await self.engine.generate(plain(sent, self.tokens))
        finally:
            self._open -= 1
            self.answered = self.answered or time.perf_counter()
            self._empty_since = time.perf_counter()
        if self.tokens is None or request.json_schema is None:
            return reply
        return replace(reply, text=json.dumps(instance(request.json_schema, request.text)), finish_reason="stop")

    def wait_for_core(self) -> None:
        """As the engine has it."""
        wait_for_core(self.engine)

    def close(self) -> None:
        """Leave the engine to the benchmark."""
