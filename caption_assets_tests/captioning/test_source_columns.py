"""Source columns in prompts: they steer the caption, and a row made of others is not taken for another picture's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets.exports.samples import read_samples
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets.perspectives import Perspective, source_values
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]


def echo(request: EngineRequest) -> EngineReply:
    """Answers with the question."""
    return reply(json.dumps({"caption": request.text}))


@pytest.fixture
def setup(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> Callable[..., PipelineConfig]:
    """Put one picture into a folder several times, each with a sidecar, and ask about it with a prompt."""

    def make(prompt: str, *sidecars: dict[str, Any], shard_size: int = 1) -> PipelineConfig:
        folder, library = tmp_path / "pictures", tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        library.mkdir(exist_ok=True)
        for number, sidecar in enumerate(sidecars):
            shutil.copy(sorted(pictures.glob("scene*"))[0], folder / f"{number}.png")
            (folder / f"{number}.json").write_text(json.dumps(sidecar))
        perspective = {"name": "look", "prompt": prompt, "schema_fields": [{"name": "caption"}]}
        (library / "look.json").write_text(json.dumps(perspective | {"describe_schema": False}))
        return make_config(
            datasets={"demo": {"kind": "folder", "path": str(folder), "shard_size": shard_size}},
            perspectives={"library": ["./mine"], "enabled": ["look"]},
        )

    return make


def told(config: PipelineConfig) -> list[list[str]]:
    """Caption each shard in a run of its own; what is said, by shard."""
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    for shard in shards:
        caption(config, lake, [shard], lent(ScriptedEngine(echo)), run_id=shard.key)
    bound = bound_of(config)["look"]
    return [[row["output"]["caption"] for row in rows.read_rows(lake, bound, shard).values()] for shard in shards]


def test_columns_steer_the_prompt_and_are_not_mixed_up_among_shards(setup: Callable[..., PipelineConfig]) -> None:
    prompt = "Titled {{ source.title }}{% if source.tags is defined %}, with {{ source.tags }}{% endif %}."
    config = setup(prompt, {"title": "a"}, {"title": "b", "tags": ["x", "y"]}, {"title": "a", "id": 3})
    assert told(config) == [["Titled a."], ["Titled b, with x, y."], ["Titled a."]]
    lake = Lake(config.lake)
    stored = [rows.read_rows(lake, bound_of(config)["look"], shard) for shard in ingest(config, lake)]
    reused = [row["reused_from"] for shard in stored for row in shard.values()]
    assert reused == [None, None, "demo-000000"], "a column that the prompt does not read costs nothing"


def test_a_prompt_without_columns_is_paid_once(setup: Callable[..., PipelineConfig]) -> None:
    config = setup("What is it?", {"title": "a"}, {"title": "b"})
    assert told(config) == [["What is it?"], ["What is it?"]]
    engine = ScriptedEngine(echo)
    caption(config, Lake(config.lake), ingest(config, Lake(config.lake)), lent(engine))
    assert engine.requests == []


def test_of_identical_pictures_in_a_shard_the_first_counts_in_caption_and_export(
    setup: Callable[..., PipelineConfig],
) -> None:
    config = setup("Titled {{ source.title }}.", {"title": "first"}, {"title": "second"}, shard_size=10)
    assert told(config) == [["Titled first."]]
    lake = Lake(config.lake)
    (sample,) = read_samples(lake, ingest(config, lake)[0], bound_of(config))
    record = sample.record()
    assert (record["source"]["title"], record["captions"]["look"]["caption"]) == ("first", "Titled first.")


def test_a_changed_sidecar_counts_once_its_picture_is_touched(setup: Callable[..., PipelineConfig]) -> None:
    config = setup("Titled {{ source.title }}.", {"title": "old"})
    assert told(config) == [["Titled old."]]
    picture = Path(config.file).parent / "pictures" / "0.png"
    picture.with_suffix(".json").write_text('{"title": "new"}')
    assert told(config) == [["Titled old."]], "not noticed"
    os.utime(picture)
    assert told(config) == [["Titled old."], ["Titled new."]]
    with open_views(config) as views:
        assert views.execute("SELECT caption FROM captions_look").fetchall() == [("Titled new.",)]
        assert views.execute("SELECT count(*) FROM stale").fetchall() == [(0,)]


def test_a_column_that_is_missing_is_a_failure_that_names_those_there_are(
    setup: Callable[..., PipelineConfig],
) -> None:
    config = setup("Titled {{ source.title }}.", {"name": "a"})
    assert told(config) == [[]]
    lake = Lake(config.lake)
    (failure,) = read_failures(lake, "look", ingest(config, lake)[0])
    assert (failure["kind"], failure["retryable"]) == ("prompt", False)
    assert "'title'" in failure["message"]
    assert failure["message"].endswith("these source columns: name")


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("What?", {}),
        ("{{ source.a }}", {"a": 1}),
        ("{{ source['b'] }}{{ source.gone | default('') }}", {"b": 2}),
        ("{{ source.a }}{% for name in source %}{{ name }}{% endfor %}", {"a": 1, "b": 2}),
        ("{{ source.get('a') }}", {"a": 1, "b": 2}),
        ("{{ source[context.x] }}", {"a": 1, "b": 2}),
    ],
)
def test_what_a_prompt_depends_on(prompt: str, read: dict[str, int]) -> None:
    look = Perspective.model_validate({"name": "look", "prompt": prompt, "schema_fields": [{"name": "caption"}]})
    assert source_values(look, {"a": 1, "b": 2}) == read
