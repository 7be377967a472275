"""Captions the one shard of a lake in a process of its own, and prints how much memory that took.

`python -m caption_assets_tests.captioning.memory PIPELINE`; an engine of kind vllm is stood in for by one that keeps as
many requests waiting as it may have, as a model does that is slower than all else.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from pathlib import Path

from caption_assets.config import load_config
from caption_assets.engine import openai_engine as openai_engine  # what is imported is not what is measured
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests import resident
from caption_assets_tests.assets.running import answer
from caption_assets_tests.support import caption, lent


class SlowEngine:
    """Answers the first of its requests when it has as many as it wants, or when no more come."""

    max_in_flight = 512  # as vLLM's on a GPU
    load_seconds = 0.0

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Event] = deque()
        self.most = 0

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, late."""
        assert request.image is not None
        assert request.image.size == (1024, 1024)
        mine = asyncio.Event()
        self._waiting.append(mine)
        self.most = max(self.most, len(self._waiting))
        if len(self._waiting) >= self.max_in_flight:
            self._next()
        while not mine.is_set():
            before = len(self._waiting)
            try:
                await asyncio.wait_for(mine.wait(), 0.5)
            except TimeoutError:
                if len(self._waiting) <= before:  # nobody has come meanwhile
                    self._next()
        return answer(request)

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    def close(self) -> None:
        """Nothing to free."""


def main(pipeline: str) -> None:
    """Caption, and print megabytes at the start and at most."""
    config = load_config(pipeline)
    slow = SlowEngine()
    open_ = lent(slow) if config.engines["default"].kind == "vllm" else open_engine
    before = resident.now()
    Path("/proc/self/clear_refs").write_text("5")  # the peak until now does not count
    caption(config, Lake(config.lake), [Shard("demo", 0)], open_)
    print(f"{before:.0f} {resident.most():.0f} {slow.most}")


if __name__ == "__main__":
    main(sys.argv[1])
