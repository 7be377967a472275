"""Helpers of the tests: engines that count or follow a script, and the whole path at domain level."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.captioning.forms import record_forms
from caption_assets.captioning.report import ShardReport
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import PipelineConfig
from caption_assets.engine.lazy import OpenEngine
from caption_assets.engine.protocol import Engine, EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.current import promote
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media
from caption_assets.sources.planner import open_source, plan_dataset


class SharedEngine:
    """Passes requests on to an engine and counts them; closing it does nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.max_in_flight = engine.max_in_flight
        self.load_seconds = engine.load_seconds
        self.opened = 0
        self.requests = 0

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request."""
        self.requests += 1
        return await self._engine.generate(request)

    def close(self) -> None:
        """Leave the engine to the session."""


Script = Callable[[EngineRequest], EngineReply | EngineFailure]


class ScriptedEngine:
    """Answers by a function, to make failures that a real engine makes only rarely."""

    max_in_flight = 16
    load_seconds = 0.0

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: list[EngineRequest] = []

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, as the script says."""
        self.requests.append(request)
        await asyncio.sleep(0)
        outcome = self._script(request)
        if isinstance(outcome, EngineFailure):
            raise outcome
        return outcome

    def close(self) -> None:
        """Nothing to free."""


def lent(engine: Engine) -> OpenEngine:
    """An opener that lends an engine."""

    @contextmanager
    def lend(config: PipelineConfig, name: str, waiting: Callable[[], None]) -> Iterator[Engine]:
        del config, name, waiting
        yield engine

    return lend


def reply(text: str, finish_reason: str = "stop") -> EngineReply:
    """A reply with some token counts."""
    return EngineReply(text, finish_reason, prompt_tokens=80, cached_tokens=64, completion_tokens=20)


def ingest(config: PipelineConfig, lake: Lake, dataset: str = "demo") -> list[Shard]:
    """Plan a dataset and make the media of all its shards."""
    source = open_source(config, dataset)
    planned = plan_dataset(lake, dataset, source, config.datasets[dataset].shard_size)
    for shard in planned.shards:
        build_media(lake, shard, source, config.media, "ingest")
    return planned.shards


def caption(
    config: PipelineConfig,
    lake: Lake,
    shards: Sequence[Shard],
    open_: OpenEngine,
    *,
    run_id: str = "run",
    only: Sequence[str] | None = None,
    force: bool = False,
) -> list[ShardReport]:
    """Caption shards with some or all of the enabled perspectives."""
    bound = bind_perspectives(config)
    selected = [each for name, each in bound.items() if only is None or name in only]
    record_forms(lake, selected)
    promote(lake, {each.name: each.fingerprint for each in selected})
    return list(CaptionRun(config, lake, selected, bound, shards, run_id, force=force, open_=open_))


def outputs(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Outputs by media_id."""
    return {media_id: row["output"] for media_id, row in rows.items()}


def bound_of(config: PipelineConfig) -> dict[str, BoundPerspective]:
    """The enabled perspectives, bound."""
    return bind_perspectives(config)
