"""Real engines that die under their requests, and loads that nobody waits for any more."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caption_assets.config import PipelineConfig
from caption_assets.engine.device import device_lock, device_name
from caption_assets.engine.lazy import LazyEngine
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import EngineReply, EngineRequest

MakeConfig = Callable[..., PipelineConfig]


@pytest.fixture(autouse=True)
def _other_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of the test's own: the session's engine may hold the device already."""
    monkeypatch.setenv("CAPTION_ASSETS_LOCKS", str(tmp_path))


def lazy(make_config: MakeConfig, mode: str, told: list[str]) -> LazyEngine:
    """An engine on the bundled model that is not loaded yet."""
    config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "mode": mode}})
    return LazyEngine(config, "default", open_engine, told.append)


async def ask(engine: LazyEngine, count: int, name: str) -> list[EngineReply | BaseException]:
    """So many questions at once."""
    image = Image.new("RGB", (100, 100), (30, 30, 200))
    asked = (
        engine.generate(EngineRequest(f"{name}-{number}", "Count.", image, "blue", None, max_tokens=200, seed=number))
        for number in range(count)
    )
    return await asyncio.gather(*asked, return_exceptions=True)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def engine_processes() -> list[multiprocessing.process.BaseProcess]:
    """The processes that models are in."""
    return [each for each in multiprocessing.active_children() if each.name.startswith("EngineCore")]


@pytest.mark.slow
def test_a_killed_engine_process_is_replaced(make_config: MakeConfig) -> None:
    told: list[str] = []

    async def use() -> None:
        engine = lazy(make_config, "async", told)
        try:
            assert all(isinstance(each, EngineReply) for each in await ask(engine, 4, "before"))
            (process,) = engine_processes()
            asked = asyncio.ensure_future(ask(engine, 100, "under way"))
            await asyncio.sleep(0.05)
            process.kill()
            outcomes = await asked
            assert all(isinstance(each, EngineReply) for each in outcomes), outcomes
            assert engine.restarts == 1
        finally:
            engine.close()

    asyncio.run(use())
    assert sum("loading it again" in line for line in told) == 1
    wait_until(lambda: not engine_processes())


def test_an_engine_that_breaks_in_this_process_is_replaced(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def use() -> list[EngineReply | BaseException]:
        engine = lazy(make_config, "in_process", told)
        try:
            await ask(engine, 2, "before")
            from vllm.v1.engine.llm_engine import LLMEngine

            step, steps = LLMEngine.step, []

            def breaking(self: LLMEngine) -> object:
                steps.append(self)
                if len(steps) == 2:
                    raise RuntimeError("device-side assert")
                return step(self)

            monkeypatch.setattr(LLMEngine, "step", breaking)
            return await ask(engine, 12, "under way")
        finally:
            engine.close()

    outcomes = asyncio.run(use())
    assert all(isinstance(each, EngineReply) for each in outcomes), outcomes
    assert any("the engine died: RuntimeError: device-side assert; loading it again" in line for line in told)


@pytest.mark.parametrize("mode", ["in_process", "async"])
def test_a_load_that_nobody_waits_for_is_given_up(make_config: MakeConfig, mode: str) -> None:
    async def use() -> float:
        engine = lazy(make_config, mode, [])
        asked = asyncio.ensure_future(ask(engine, 1, "never"))
        while mode == "async" and not engine_processes():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        asked.cancel()
        started = time.monotonic()
        await asyncio.gather(asked, return_exceptions=True)
        engine.close()
        while engine_processes():
            await asyncio.sleep(0.01)
        return time.monotonic() - started

    assert asyncio.run(use()) < 3.0, "far less than loading takes"
    wait_until(lambda: not any(each.name in {"loading", "vllm"} for each in threading.enumerate()))
    wait_until(lambda: not engine_processes())
    with device_lock(device_name(), lambda: pytest.fail("the device is still held")):
        pass


def test_waiting_for_the_device_ends_with_the_run(make_config: MakeConfig) -> None:
    told: list[str] = []

    async def use() -> None:
        engine = lazy(make_config, "in_process", told)
        asked = asyncio.ensure_future(ask(engine, 1, "never"))
        while not any("another process holds the device" in line for line in told):
            await asyncio.sleep(0.05)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        engine.close()

    with device_lock(device_name()):
        started = time.monotonic()
        asyncio.run(use())
        assert time.monotonic() - started < 60
        wait_until(lambda: not any(each.name == "loading" for each in threading.enumerate()))
