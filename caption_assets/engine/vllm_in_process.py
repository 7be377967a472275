"""vLLM in this process, fed and stepped by one thread: continuous batching without a second process.

It starts in seconds, dies with its process and leaves no children behind: the engine for CPUs and small models.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import queue
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from caption_assets.engine import rendering
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest

_START_TIMEOUT_SECONDS = 1800.0
_HELD_SECONDS = 0.5
"""How long an outcome waits for others at most."""
_CORE_SECONDS = 1.0
"""How long work beside the model waits at most."""
TOO_LONG = re.compile(
    r"longer than|max_model_len|maximum (model|context) length|exceeds? .*(context|length)", re.I | re.S
)


@dataclass(frozen=True)
class _Pending:
    request: EngineRequest
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[EngineReply]

    def resolve(self, outcome: EngineReply | EngineFailure) -> None:
        self.loop.call_soon_threadsafe(self.set, outcome)

    def set(self, outcome: EngineReply | EngineFailure) -> None:
        """Hand over the outcome; in the event loop's thread."""
        if self.future.done():
            return
        if isinstance(outcome, EngineFailure):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class InProcessEngine:
    """An engine on the calling process's CPU or GPU.

    Args:
        arguments: for vLLM's EngineArgs.
        chat: chat_template and chat_template_kwargs, if set.

    Raises:
        EngineFailure: the model cannot be loaded (fatal).
    """

    def __init__(self, arguments: dict[str, Any], chat: dict[str, Any]) -> None:
        self._arguments, self._chat = arguments, chat
        self._inbox: queue.SimpleQueue[_Pending | str | None] = queue.SimpleQueue()
        self._waiting: list[tuple[int, int, _Pending]] = []
        """A heap: by priority, then in the order of arrival."""
        self._arrivals = itertools.count()
        self._running: dict[str, _Pending] = {}
        self._finished: list[tuple[_Pending, EngineReply | EngineFailure]] = []
        """Outcomes that nobody was told of yet."""
        self._finished_at = 0.0
        """When the first of them came: seconds of the monotonic clock."""
        self._core = threading.Event()
        """Whether the model leaves a core to others, or works on none."""
        self._core.set()
        self._ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._closed: EngineFailure | None = None
        self._seqs = 0
        """Requests that the model works on at once."""
        started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        error = self._ready.get(timeout=_START_TIMEOUT_SECONDS)
        if error is not None:
            raise load_failure(error) from error
        self.load_seconds = time.perf_counter() - started
        self.max_in_flight = 3 * self._seqs

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request; cancelling the caller aborts it in the engine."""
        if self._closed:
            raise self._closed
        loop = asyncio.get_running_loop()
        future: asyncio.Future[EngineReply] = loop.create_future()
        self._inbox.put(_Pending(request, loop, future))
        if self._closed:  # while it was put there, perhaps after the last look
            future.cancel()
            raise self._closed
        try:
            return await future
        except asyncio.CancelledError:
            self._inbox.put(request.request_id)
            raise

    def wait_for_core(self) -> None:
        """Wait until requests are prepared for the model, which takes one core, or the model lacks requests.

        The model itself works on all cores, and each thread of its waits for the others: what other work takes of one
        core is lost on all.
        """
        self._core.wait(_CORE_SECONDS)

    def close(self) -> None:
        """End the thread and free the model's memory."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    def _run(self) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            from vllm import EngineArgs
            from vllm.renderers.params import ChatParams
            from vllm.v1.engine.llm_engine import LLMEngine

            engine = LLMEngine.from_engine_args(EngineArgs(**self._arguments), enable_multiprocessing=False)
            params = ChatParams(
                chat_template=self._chat.get("chat_template"),
                chat_template_kwargs={
                    "add_generation_prompt": True,
                    "tokenize": False,
                    **self._chat.get("chat_template_kwargs", {}),
                },
            )
        except BaseException as error:
            self._ready.put(error)
            return
        self._seqs = engine.vllm_config.scheduler_config.max_num_seqs
        shares_cores = engine.vllm_config.device_config.device_type == "cpu"
        self._ready.put(None)
        try:
            while self._admit(engine, params):
                if shares_cores and not self._has_room:
                    self._core.clear()
                self._finish([output for output in engine.step() if output.finished])
        except Exception as error:  # the engine is beyond repair: tell everybody who waits
            message = f"the engine died: {type(error).__name__}: {error}"
            self._fail(EngineFailure("engine", message, retryable=True, fatal=True, died=True))
        finally:
            self._core.set()
            self._fail(EngineFailure("engine", "the engine was closed", retryable=True, fatal=True))
            engine.engine_core.shutdown()

    @property
    def _has_room(self) -> bool:
        """Whether the model will soon have less to do than it can."""
        return len(self._running) <= self._seqs + self._seqs // 4

    def _finish(self, outputs: list[Any]) -> None:
        """Take the outcomes of a step; hand them over once there is room for other requests.

        Until then they wait for each other: to wake a loop takes longer than an outcome does, and what it does next
        takes the cores from the model.
        """
        for output in outputs:
            if pending := self._running.pop(output.request_id, None):
                self._finished_at = self._finished_at if self._finished else time.monotonic()
                self._finished.append((pending, _outcome(output)))
        if self._finished and (self._has_room or time.monotonic() - self._finished_at > _HELD_SECONDS):
            self._hand_over()

    def _hand_over(self) -> None:
        outcomes: dict[asyncio.AbstractEventLoop, list[tuple[_Pending, EngineReply | EngineFailure]]] = {}
        for outcome in self._finished:
            outcomes.setdefault(outcome[0].loop, []).append(outcome)
        self._finished.clear()
        for loop, mine in outcomes.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_set_all, mine)

    def _admit(self, engine: Any, params: Any) -> bool:
        """Hand waiting requests to the engine; wait for one where it has nothing to do. False: close.

        As long as it has enough to do they wait for others: many prepared one after the other take a quarter less time
        than each between two steps of the model. Those that go before some it has already wait for half a batch only.
        """
        while True:
            try:
                entry = self._inbox.get(block=not (self._waiting or engine.has_unfinished_requests()))
            except queue.Empty:
                break
            if entry is None:
                return False
            if isinstance(entry, _Pending):
                heapq.heappush(self._waiting, (entry.request.priority, next(self._arrivals), entry))
            elif self._running.pop(entry, None):
                engine.abort_request([entry])
        if self._has_room or self._are_overtaking():
            self._core.set()
            while self._waiting:
                self._prepare(engine, params, heapq.heappop(self._waiting)[2])
        return True

    def _are_overtaking(self) -> bool:
        """Whether half a batch waits that goes before some that the engine has."""
        enough = max(1, self._seqs // 2)
        if len(self._waiting) < enough:
            return False
        last = max(pending.request.priority for pending in self._running.values())
        return sum(priority < last for priority, _, _ in self._waiting) >= enough

    def _prepare(self, engine: Any, params: Any, entry: _Pending) -> None:
        """Hand a request to the engine, unless nobody waits for it any more."""
        if entry.future.cancelled():
            return
        try:
            _, (prompt,) = engine.renderer.render_chat([rendering.messages(entry.request)], params)
            self._running[entry.request.request_id] = entry
            sampling = rendering.sampling_params(entry.request)
            engine.add_request(entry.request.request_id, prompt, sampling, priority=entry.request.priority)
        except Exception as error:  # whatever a request makes vLLM raise here is the request's fault alone
            self._running.pop(entry.request.request_id, None)
            entry.resolve(rejection(error))

    def _fail(self, failure: EngineFailure) -> None:
        self._closed = self._closed or failure
        self._hand_over()
        waiting = [*self._running.values(), *(pending for _, _, pending in self._waiting)]
        self._running.clear()
        self._waiting.clear()
        while True:
            try:
                entry = self._inbox.get_nowait()
            except queue.Empty:
                break
            if isinstance(entry, _Pending):
                waiting.append(entry)
        for pending in waiting:
            if not pending.loop.is_closed():
                pending.resolve(failure)


def _set_all(outcomes: list[tuple[_Pending, EngineReply | EngineFailure]]) -> None:
    for pending, outcome in outcomes:
        pending.set(outcome)


def _outcome(output: Any) -> EngineReply | EngineFailure:
    try:
        return rendering.reply(output)
    except EngineFailure as failure:
        return failure


def load_failure(error: BaseException) -> EngineFailure:
    """What it means that a model cannot be loaded: arguments that do not fit it, or each other, never will."""
    refused = isinstance(error, ValidationError)
    told = "; ".join(each["msg"] for each in error.errors()) if isinstance(error, ValidationError) else str(error)
    return EngineFailure("engine", f"the model could not be loaded: {told}", retryable=not refused, fatal=True)


def rejection(error: Exception) -> EngineFailure:
    """What vLLM's refusal of a request means: it would refuse it again."""
    text = str(error)
    too_long = TOO_LONG.search(text) is not None
    return EngineFailure(
        "too_long" if too_long else "prompt", f"{type(error).__name__}: {text}"[:1000], retryable=False
    )
