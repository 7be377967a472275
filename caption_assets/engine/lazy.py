"""An engine that is loaded when the first request comes, once more if it dies, and never waited for in vain."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from caption_assets.config import PipelineConfig
from caption_assets.engine.models import model_label
from caption_assets.engine.protocol import Engine, EngineFailure, EngineReply, EngineRequest, wait_for_core

_MAX_RESTARTS = 1
_LOOK_SECONDS = 0.1
_ENGINE_PROCESS = "EngineCore"
"""How vLLM names the processes that it loads models in."""

OpenEngine = Callable[[PipelineConfig, str, Callable[[], None]], AbstractContextManager[Engine]]


class DeviceWaited(Exception):
    """The model was loaded after another process had let go of the device, which may have done our work meanwhile."""


class LazyEngine:
    """Loads the engine with the first request: a run that finds nothing to do loads no model.

    Args:
        name: the engine's name in the pipeline file.
        open_: how it is opened.
        tell: receives lines for people, from other threads, too.
    """

    max_in_flight = 64
    load_seconds = 0.0
    """What all its loads have taken."""
    restarts = 0
    """How often it died and was loaded again."""
    loaded: Callable[[], None] = staticmethod(lambda: None)
    """Called when it is there, and `max_in_flight` its own."""

    def __init__(self, config: PipelineConfig, name: str, open_: OpenEngine, tell: Callable[[str], None]) -> None:
        self._config, self._name, self._open, self._tell = config, name, open_, tell
        self._label = model_label(config.engines[name])
        self._lock = asyncio.Lock()
        self._loading: _Loading | None = None
        self._engine: Engine | None = None

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, loading the model first if need be.

        A request that the engine dies under is asked again of the next one, as often as an engine may die.

        Raises:
            DeviceWaited: once, if loading had to wait.
            EngineFailure: no answer, or the model cannot be loaded, or it died again (fatal).
        """
        while True:
            engine = self._engine or await self._first()
            try:
                return await engine.generate(request)
            except EngineFailure as error:
                if not error.died:
                    raise
                await self._replace(engine, error)

    def wait_for_core(self) -> None:
        """As `SharesCores` has it; at once where the engine does not, or is not loaded."""
        wait_for_core(self._engine)

    def close(self) -> None:
        """Free the device, if it was ever taken."""
        if self._loading is not None:
            self._loading.close()

    async def _first(self) -> Engine:
        async with self._lock:
            return self._engine or await self._load()

    async def _replace(self, dead: Engine, error: EngineFailure) -> None:
        """Load again after a death; raises the error when there have been too many."""
        async with self._lock:
            if self._engine is not dead:
                return  # another request has seen to it
            if self.restarts == _MAX_RESTARTS:
                raise error
            self.restarts += 1
            self._tell(f"{error}; loading it again, this once")
            self._engine = None
            self.close()
            await self._load()

    async def _load(self) -> Engine:
        self._tell(f"loading {self._label} (engine {self._name})")
        started = time.monotonic()
        self._loading = _Loading(lambda waiting: self._open(self._config, self._name, waiting), self._tell)
        engine = await self._loading.result()
        self.max_in_flight = engine.max_in_flight
        self.load_seconds += time.monotonic() - started
        self._engine = engine
        self.loaded()
        self._tell(f"{self._label} loaded in {engine.load_seconds:.1f} s")
        if self._loading.waited:
            raise DeviceWaited
        return engine


class _GivenUp(Exception):
    """Nobody waits for the engine any more."""


class _Loading:
    """Opens an engine in a thread that the end of the process does not wait for, and that can be told to stop."""

    def __init__(
        self, open_: Callable[[Callable[[], None]], AbstractContextManager[Engine]], tell: Callable[[str], None]
    ) -> None:
        self._tell, self._opened = tell, open_(self._waiting)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Engine] = self._loop.create_future()
        self._lock = threading.Lock()
        self._open = self._given_up = self.waited = False
        self._thread = threading.Thread(target=self._work, name="loading", daemon=True)
        self._thread.start()

    async def result(self) -> Engine:
        """The engine. Cancelling the caller makes the loading stop as soon as may be."""
        try:
            return await self._future
        except asyncio.CancelledError:
            self._given_up = True
            raise

    def close(self) -> None:
        """Close the engine; one that is still being loaded is given up."""
        with self._lock:
            self._given_up = True
            mine, self._open = self._open, False
        if mine:
            self._opened.__exit__(None, None, None)
        elif self._thread.is_alive():
            threading.Thread(target=self._stop_processes, name="stop loading", daemon=True).start()

    def _work(self) -> None:
        try:
            engine = self._opened.__enter__()
        except BaseException as error:
            if not self._given_up:
                self._loop.call_soon_threadsafe(self._set, error)
            return
        with self._lock:
            self._open = not self._given_up
            if self._open:
                self._loop.call_soon_threadsafe(self._set, engine)
        if not self._open:
            self._opened.__exit__(None, None, None)

    def _set(self, outcome: Engine | BaseException) -> None:
        if self._future.done():
            return
        if isinstance(outcome, BaseException):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)

    def _waiting(self) -> None:
        if self._given_up:
            raise _GivenUp
        if not self.waited:
            self.waited = True
            self._tell("another process holds the device; waiting for it")

    def _stop_processes(self) -> None:
        """End the processes that a model is being loaded in, for as long as new ones come."""
        while self._thread.is_alive():
            for process in multiprocessing.active_children():
                if process.name.startswith(_ENGINE_PROCESS):
                    process.kill()
            self._thread.join(_LOOK_SECONDS)
