"""The in-process engine beside other work: outcomes wait for each other, and the model's cores are left to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from caption_assets.engine import vllm_in_process
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest, SharesCores
from caption_assets.engine.vllm_in_process import InProcessEngine
from caption_assets_tests.support import SharedEngine, reply

_ENOUGH = 64 + 16
"""Requests that the model works on at once, and a quarter more: with more it has no room."""


def _request(name: str) -> EngineRequest:
    return EngineRequest(name, f"Count {name}.", None, None, None, max_tokens=16)


async def _many(engine: SharedEngine, name: str) -> list[EngineReply]:
    return await asyncio.gather(*(engine.generate(_request(f"{name}-{number}")) for number in range(192)))


@pytest.mark.parametrize(("seconds", "waits"), [(1e9, True), (0.0, False)])
def test_outcomes_wait_for_each_other_while_the_model_has_enough_to_do(
    shared_engine: SharedEngine, monkeypatch: pytest.MonkeyPatch, seconds: float, waits: bool
) -> None:
    told: list[tuple[int, int]] = []
    hand_over = InProcessEngine._hand_over

    def watched(self: InProcessEngine) -> None:
        told.append((len(self._finished), len(self._running)))
        hand_over(self)

    monkeypatch.setattr(vllm_in_process, "_HELD_SECONDS", seconds)
    monkeypatch.setattr(InProcessEngine, "_hand_over", watched)
    assert len(asyncio.run(_many(shared_engine, f"held-{waits}"))) == 192
    assert sum(outcomes for outcomes, _ in told) == 192
    early = [outcomes for outcomes, running in told if running > _ENOUGH]
    assert bool(early) != waits, "they wait, but not for long"
    assert not waits or told[0][0] >= 192 - _ENOUGH - 32, "all that came until then are told at once"


def test_others_have_a_core_while_requests_are_prepared(
    shared_engine: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing: list[bool] = []
    working: list[tuple[int, bool]] = []
    prepare, finish = InProcessEngine._prepare, InProcessEngine._finish

    def watch_prepare(self: InProcessEngine, *arguments: Any) -> None:
        preparing.append(self._core.is_set())
        prepare(self, *arguments)

    def watch_finish(self: InProcessEngine, outputs: list[Any]) -> None:
        working.append((len(self._running), self._core.is_set()))
        finish(self, outputs)

    monkeypatch.setattr(InProcessEngine, "_prepare", watch_prepare)
    monkeypatch.setattr(InProcessEngine, "_finish", watch_finish)
    asyncio.run(_many(shared_engine, "core"))
    assert len(preparing) == 192
    assert all(preparing)
    assert {free for running, free in working if running > _ENOUGH} == {False}
    assert {free for running, free in working if running <= _ENOUGH} == {True}, "it lacks requests: hurry"
    assert isinstance(shared_engine._engine, SharesCores)
    started = time.monotonic()
    shared_engine._engine.wait_for_core()
    assert time.monotonic() - started < 0.5


def test_what_was_answered_before_the_engine_died_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InProcessEngine, "_run", lambda self: self._ready.put(None))
    monkeypatch.setattr(vllm_in_process, "_outcome", lambda output: output.reply)

    class Output:
        request_id, reply = "answered", reply("{}")

    async def everything() -> list[EngineReply | BaseException]:
        engine = InProcessEngine({}, {})
        asked = [asyncio.ensure_future(engine.generate(_request(name))) for name in ("answered", "under way")]
        await asyncio.sleep(0)
        for pending in (engine._inbox.get(), engine._inbox.get()):
            assert isinstance(pending, vllm_in_process._Pending)
            engine._running[pending.request.request_id] = pending
        engine._finish([Output()])
        await asyncio.sleep(0)
        assert not asked[0].done(), "it waits for the other"
        engine._fail(EngineFailure("engine", "it died", retryable=True, fatal=True, died=True))
        return await asyncio.gather(*asked, return_exceptions=True)

    answered, under_way = asyncio.run(everything())
    assert isinstance(answered, EngineReply)
    assert isinstance(under_way, EngineFailure)
