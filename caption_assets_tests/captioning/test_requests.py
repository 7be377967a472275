"""What an engine is asked: each perspective with its own sampling, the picture first and under its own name."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caption_assets.config import PipelineConfig
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine import rendering
from caption_assets.engine.protocol import EngineRequest
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets_tests.captioning.test_failures import perspective_of
from caption_assets_tests.support import ScriptedEngine, caption, ingest, lent, reply

SAMPLED = {"temperature": 0.4, "top_p": 0.9, "top_k": 20, "max_tokens": 77, "seed": 5, "repetition_penalty": 1.1}


def write_perspectives(folder: Path) -> None:
    """Three perspectives: one with sampling of its own, one without, and one without a picture."""
    folder.mkdir()
    fields = {"schema_fields": [{"name": "text"}]}
    documents: list[dict[str, Any]] = [
        {"name": "careful", "prompt": "Look.", **fields},
        {"name": "playful", "prompt": "Look again.", "sampling": SAMPLED, **fields},
        {"name": "words", "prompt": "Of {{ source.title }}.", "image": False, **fields},
    ]
    for document in documents:
        (folder / f"{document['name']}.json").write_text(json.dumps(document))


def test_each_perspective_is_asked_in_its_own_way(make_config: Callable[..., PipelineConfig], tmp_path: Path) -> None:
    write_perspectives(tmp_path / "library")
    names = ["careful", "playful", "words"]
    folder = tmp_path / "titled"
    for number, picture in enumerate(write_scenes(folder, 3, 17)):
        picture.with_suffix(".json").write_text(json.dumps({"title": f"number {number}"}))
    config = make_config(
        datasets={"demo": {"kind": "folder", "path": str(folder), "settle_seconds": 0}},
        perspectives={"library": ["./library"], "enabled": names},
    )
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    engine = ScriptedEngine(lambda request: reply('{"text": "A circle."}'))
    caption(config, lake, shards, lent(engine))
    asked: dict[str, list[EngineRequest]] = {name: [] for name in names}
    for request in engine.requests:
        asked[perspective_of(request)].append(request)
    assert {name: len(requests) for name, requests in asked.items()} == dict.fromkeys(names, 3)

    for request in asked["playful"]:
        assert {name: getattr(request, name) for name in SAMPLED} == SAMPLED
    assert {(each.temperature, each.top_p, each.seed) for each in asked["careful"]} == {(0.0, 1.0, None)}

    media_ids = {row["media_id"] for row in read_index(lake, shards[0])}
    for name in ("careful", "playful"):
        assert {each.image_id for each in asked[name]} == media_ids
        for request in asked[name]:
            image, text = rendering.messages(request)[0]["content"]
            assert (image["type"], text["type"]) == ("image_pil", "text"), "the picture before the prompt"
            assert image["uuid"] == request.image_id
    for request in asked["words"]:
        assert request.image is request.image_id is request.image_file is None
        (part,) = rendering.messages(request)[0]["content"]
        assert part["text"].startswith("Of number ")


def test_cycles_are_looked_for_seldom_in_a_run_and_as_often_as_before_after_it(
    make_config: Callable[..., PipelineConfig],
) -> None:
    config, before = make_config(), gc.get_threshold()
    lake = Lake(config.lake)
    seen: set[tuple[int, int, int]] = set()
    engine = ScriptedEngine(lambda request: seen.add(gc.get_threshold()) or reply("no JSON"))
    caption(config, lake, ingest(config, lake)[:1], lent(engine), only=["scene_caption"])
    assert {first for first, *_ in seen} == {50_000}
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
