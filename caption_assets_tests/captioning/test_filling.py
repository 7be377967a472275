"""How the scheduler fills an engine: all that it takes, pictures first, and no picture held that nobody looks at."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from caption_assets.captioning import scheduler
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets_tests.captioning.test_failures import good, perspective_of
from caption_assets_tests.support import bound_of, caption, ingest, lent

MakeConfig = Callable[..., PipelineConfig]
_WAIT_SECONDS = 60.0


class HoldingEngine:
    """Answers a kind of request only once so many of it are there."""

    load_seconds = 0.0

    def __init__(self, max_in_flight: int, held: Callable[[EngineRequest], bool], until: int) -> None:
        self.max_in_flight = max_in_flight
        self._held, self._until = held, until
        self._enough: asyncio.Event | None = None
        self.requests: list[EngineRequest] = []

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, when its time has come."""
        self._enough = self._enough or asyncio.Event()
        self.requests.append(request)
        if self._held(request):
            if sum(map(self._held, self.requests)) == self._until:
                self._enough.set()
            await asyncio.wait_for(self._enough.wait(), _WAIT_SECONDS)
        return good(request)

    def close(self) -> None:
        """Nothing to free."""


def one_shard(make_config: MakeConfig, pictures: object) -> PipelineConfig:
    """A pipeline with all 24 pictures in one shard."""
    return make_config(datasets={"demo": {"kind": "folder", "path": str(pictures), "shard_size": 24}})


def test_a_loaded_engine_is_given_all_that_it_takes(make_config: MakeConfig, pictures: object) -> None:
    config = one_shard(make_config, pictures)
    lake = Lake(config.lake)
    engine = HoldingEngine(96, lambda request: request.image is not None, 72)  # before it is loaded, 64 are asked for
    (report,) = caption(config, lake, ingest(config, lake), lent(engine))
    assert report.looks["synthesized_caption"].done == 24


def test_text_waits_for_pictures(make_config: MakeConfig, pictures: object) -> None:
    config = one_shard(make_config, pictures)
    lake = Lake(config.lake)
    engine = HoldingEngine(16, lambda request: False, 0)
    caption(config, lake, ingest(config, lake), lent(engine))
    counted = Counter((perspective_of(request), request.priority) for request in engine.requests)
    assert counted == {
        ("scene_caption", 0): 24,
        ("scene_objects", 0): 24,
        ("scene_count", 0): 24,
        ("synthesized_caption", 1): 24,
    }


class HoldingOneEngine:
    """Answers one perspective on a picture only once whatever does not wait for that is done.

    Args:
        media_id: of the picture.
        done: whether it is.
    """

    load_seconds = 0.0
    max_in_flight = 16

    def __init__(self, media_id: str, done: Callable[[], bool]) -> None:
        self._media_id, self._done = media_id, done
        self.syntheses = 0

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request, when its time has come."""
        name = perspective_of(request)
        if name == "scene_count" and request.image_id == self._media_id:
            async with asyncio.timeout(_WAIT_SECONDS):
                while not self._done():
                    await asyncio.sleep(0.02)
        self.syntheses += name == "synthesized_caption"
        return good(request)

    def close(self) -> None:
        """Nothing to free."""


def sealed(files: Sequence[str]) -> bool:
    """Whether a shard's rows of a perspective are one file."""
    return len(files) == 1 and files[0].startswith("sealed-")


def test_nothing_waits_for_one_slow_answer(make_config: MakeConfig) -> None:
    config = make_config()  # three shards of eight pictures
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    bound = bound_of(config).values()
    folders = [layout.captions_folder(each.name, each.fingerprint, shard) for each in bound for shard in shards[1:]]
    one = str(read_index(lake, shards[0])[0]["media_id"])
    engine = HoldingOneEngine(one, lambda: all(map(sealed, map(lake.list, folders))))
    reports = caption(config, lake, shards, lent(engine))
    assert [report.shard for report in reports] == [*shards[1:], shards[0]], "the others are sealed before it"
    assert engine.syntheses == 24


def test_a_picture_that_only_text_is_left_of_makes_room(
    make_config: MakeConfig, pictures: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_HELD_BYTES", 1 << 20)  # not half of the pictures
    config = one_shard(make_config, pictures)
    lake = Lake(config.lake)
    engine = HoldingEngine(96, lambda request: request.image is None, 24)
    (report,) = caption(config, lake, ingest(config, lake), lent(engine))
    assert report.looks["synthesized_caption"].done == 24
