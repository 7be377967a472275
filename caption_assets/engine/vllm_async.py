"""vLLM's asynchronous engine: the model in a process of its own, fed without waiting for it. The engine for GPUs."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from caption_assets.engine import orphans, rendering
from caption_assets.engine.copies import Copies
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.engine.vllm_in_process import load_failure, rejection

_END_SECONDS = 1.0
"""What a process of the engine has before it is killed; vLLM gives it five."""


class AsyncEngine:
    """An AsyncLLM that is loaded on first use, in the event loop that uses it.

    Args:
        arguments: for vLLM's AsyncEngineArgs.
        chat: chat_template and chat_template_kwargs, if set.
    """

    def __init__(self, arguments: dict[str, Any], chat: dict[str, Any]) -> None:
        from vllm import AsyncEngineArgs
        from vllm.renderers.params import ChatParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError

        self._dead = EngineDeadError
        orphans.bind_engines()
        started = time.perf_counter()
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:
            orphans.unbind_engines()
            raise load_failure(error) from error
        self.load_seconds = time.perf_counter() - started
        copies = int(arguments.get("data_parallel_size", 1))
        self._copies = Copies(copies)
        self._under_way: set[asyncio.Timeout] = set()
        self._closed = False
        self.max_in_flight = 2 * copies * int(arguments.get("max_num_seqs", 256))
        self._params = ChatParams(
            chat_template=chat.get("chat_template"),
            chat_template_kwargs={
                "add_generation_prompt": True,
                "tokenize": False,
                **chat.get("chat_template_kwargs", {}),
            },
        )

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request; cancelling the caller aborts it in the engine."""
        if self._closed:
            raise _died("the engine was closed")
        try:
            async with asyncio.timeout(None) as until_closed:
                self._under_way.add(until_closed)
                try:
                    with self._copies.place(request.image_id) as copy:
                        return await self._generate(request, copy)
                finally:
                    self._under_way.discard(until_closed)
        except TimeoutError as error:
            raise _died("the engine was closed") from error

    async def _generate(self, request: EngineRequest, copy: int | None) -> EngineReply:
        try:
            _, (prompt,) = await self._engine.renderer.render_chat_async([rendering.messages(request)], self._params)
            params = rendering.sampling_params(request)
            final: Any = None
            async for output in self._engine.generate(
                prompt, params, request.request_id, priority=request.priority, data_parallel_rank=copy
            ):
                final = output
        except self._dead as error:
            raise _died(str(error)) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise rejection(error) from error
        if final is None:
            raise EngineFailure("engine", "the engine ended the request without output", retryable=True)
        return rendering.reply(final)

    def close(self) -> None:
        """Stop the engine's processes at once, and end its requests: it would not answer, nor refuse, what it has not
        yet seen.
        """
        self._closed = True
        for each in self._under_way:
            each.reschedule(0)
        bounded = "timeout" in inspect.signature(self._engine.shutdown).parameters  # not in every release
        self._engine.shutdown(**({"timeout": _END_SECONDS} if bounded else {}))
        orphans.unbind_engines()


def _died(why: str) -> EngineFailure:
    return EngineFailure("engine", f"the engine died: {why}", retryable=True, fatal=True, died=True)
