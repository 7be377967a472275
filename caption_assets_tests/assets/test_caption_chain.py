"""A chain of engines, one → other → the one again, over a range of shards: one barrier an engine change."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

import caption_assets.demo
from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets_tests.assets.running import Pipeline
from caption_assets_tests.engine.stub_server import MODEL, Call, StubServer, well

CHAIN = ["scene_caption", "second_look", "synthesized_caption"]
LOOKS = ["scene_caption", "look_6", "look_5", "look_4", "look_3", "look_2", "look_1"]
SHARDS = ["demo-000000", "demo-000001", "demo-000002"]
PICTURES = 24


def write_chain(folder: Path) -> None:
    """`second_look` reads `scene_caption` on another engine, and the synthesis reads both on the first one."""
    write_readers(
        folder,
        ("second_look", ["scene_caption"], "other"),
        ("synthesized_caption", ["scene_caption", "second_look"], "default"),
    )


def write_readers(folder: Path, *readers: tuple[str, list[str], str]) -> None:
    """Perspectives without a picture: their names, inputs and engines."""
    folder.mkdir()
    source = Path(caption_assets.demo.__file__).parent / "perspectives" / "synthesized_caption.json"
    document = json.loads(source.read_text())
    for name, inputs, engine in readers:
        prompt = "Put into one caption: " + " ".join(f"{{{{ context.{each} }}}}" for each in inputs)
        changed = document | {"name": name, "inputs": inputs, "engine": engine, "prompt": prompt}
        (folder / f"{name}.json").write_text(json.dumps(changed))


@pytest.fixture
def chained(make_config: Callable[..., PipelineConfig], tmp_path: Path) -> Callable[[StubServer, StubServer], Pipeline]:
    def make(one: StubServer, other: StubServer) -> Pipeline:
        write_chain(tmp_path / "chain")
        return over(make_config, one, other, CHAIN)

    return make


def over(
    make_config: Callable[..., PipelineConfig], one: StubServer, other: StubServer, enabled: list[str]
) -> Pipeline:
    """An ingested pipeline with two engines and the perspectives in `chain`."""
    pool = {"kind": "openai", "model": MODEL}
    config = make_config(
        perspectives={"library": ["demo", "./chain"], "enabled": enabled},
        engines={"default": pool | {"servers": [one.url]}, "other": pool | {"servers": [other.url]}},
    )
    pipeline = Pipeline.of(config)
    pipeline.ingest()
    return pipeline


def test_a_chain_of_engines_has_one_barrier_an_engine_change(
    chained: Callable[[StubServer, StubServer], Pipeline],
) -> None:
    with StubServer() as one, StubServer() as other:
        pipeline = chained(one, other)
        outcome = pipeline.caption(SHARDS[0], SHARDS[-1])
        assert outcome.success, outcome.failures
        assert {step for step in outcome.steps if step.startswith("captions")} == {
            "captions_default_0",
            "captions_other_1",
            "captions_default_2",
        }
        assert {key: count for key, count in outcome.keys().items() if key[0] != "media"} == {
            (f"captions/{name}", shard): 1 for name in CHAIN for shard in SHARDS
        }
        assert (len(one.times), len(other.times)) == (2 * PICTURES, PICTURES)
        assert one.times[PICTURES - 1] < other.times[0], "all shards by the first engine, then all by the other"
        assert other.times[-1] < one.times[PICTURES]
        with open_views(pipeline.config) as views:
            found = views.execute("SELECT perspective, count(DISTINCT media_id), count(*) FROM captions GROUP BY ALL")
            assert sorted(found.fetchall()) == sorted((name, PICTURES, PICTURES) for name in CHAIN)
            assert views.execute("SELECT count(*) FROM stale").fetchone() == (0,)

        again = pipeline.caption(SHARDS[0], SHARDS[-1])
        assert again.success, again.failures
        assert (len(one.times), len(other.times)) == (2 * PICTURES, PICTURES), "nothing is done twice"


def test_perspectives_of_one_engine_may_read_each_other_before_another_engine_reads_them(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    links = [(name, [read], "default") for read, name in pairwise(LOOKS)]
    write_readers(tmp_path / "chain", *links, ("second_look", LOOKS, "other"))
    with StubServer() as one, StubServer() as other:
        pipeline = over(make_config, one, other, [*LOOKS, "second_look"])
        some = [f"captions/{name}" for name in ("second_look", *LOOKS[:4])]
        part = pipeline.caption(SHARDS[0], SHARDS[-1], select=["media", *some])
        assert part.success, part.failures
        assert {each.asset for each in part.made} == {"media", *some}
        assert (len(one.times), len(other.times)) == (4 * PICTURES, 0), "one that reads what is not there waits for it"

        outcome = pipeline.caption(SHARDS[0], SHARDS[-1])
        assert outcome.success, outcome.failures
        assert (len(one.times), len(other.times)) == (len(LOOKS) * PICTURES, PICTURES)
        assert {key: count for key, count in outcome.keys().items() if key[0] != "media"} == {
            (f"captions/{name}", shard): 1 for name in [*LOOKS, "second_look"] for shard in SHARDS
        }


def test_a_chain_that_broke_is_taken_up_where_it_broke(
    chained: Callable[[StubServer, StubServer], Pipeline],
) -> None:
    async def refuse_after_10(call: Call) -> web.StreamResponse | None:
        if call.number < 10:
            return None
        return web.json_response({"error": {"message": "Incorrect API key provided."}}, status=401)

    with StubServer() as one, StubServer(refuse_after_10) as other:
        pipeline = chained(one, other)
        outcome = pipeline.caption(SHARDS[0], SHARDS[-1])
        assert not outcome.success
        assert "no server is usable" in outcome.failures
        assert "Incorrect API key provided." in outcome.failures
        assert len(one.times) == PICTURES, "nobody went on without what was missing"
        asked = len(other.times)

        other.behave = well
        outcome = pipeline.caption(SHARDS[0], SHARDS[-1])
        assert outcome.success, outcome.failures
    assert len(one.times) == 2 * PICTURES
    assert len(other.times) - asked == PICTURES - 10, "what was answered is kept"
    with open_views(pipeline.config) as views:
        assert views.execute("SELECT count(*) FROM captions").fetchone() == (3 * PICTURES,)
        assert views.execute("SELECT count(*) FROM failures").fetchone() == (0,)
