"""Perspectives on regions: a request a crop, one row a picture; what fails is a failure that keeps the rest."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from PIL import Image

from caption_assets.assets.preview import caption_preview
from caption_assets.captioning.catalog import open_views
from caption_assets.captioning.run import OpenEngine
from caption_assets.demo import prompts
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets_tests.assets.running import Pipeline
from caption_assets_tests.captioning.region_world import (
    BOXES,
    SPECIES,
    MakeConfig,
    Script,
    World,
    asked,
    crops_of,
)
from caption_assets_tests.engine.stub_server import MODEL, StubServer
from caption_assets_tests.support import ScriptedEngine, SharedEngine, bound_of, caption, ingest, lent, reply


@pytest.fixture
def world(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> World:
    eight = tmp_path / "eight"
    eight.mkdir()
    for file in sorted(pictures.glob("scene*"))[:8]:
        shutil.copy(file, eight)
    return World(make_config, tmp_path / "mine", eight)


def test_each_crop_is_one_request_and_a_picture_one_row(world: World) -> None:
    engine, looks = world.run(Script())
    assert (looks["species"].done, looks["species"].failed) == (8, 0)
    crops = crops_of(engine)
    assert len(crops) == 8 * 3
    media = {row["media_id"]: row for row in read_index(world.lake, world.shard)}
    for request in crops:
        match = asked(request.request_id)
        assert match
        index = int(match["index"])
        (row,) = [each for media_id, each in media.items() if f"/{media_id[:16]}/" in request.request_id]
        assert request.text == f"Which animal is the animal {index}?"
        assert request.image is not None
        x0, y0, x1, y1 = (side / 100 for side in BOXES[index])
        wanted = ((x1 - x0) * row["width"], (y1 - y0) * row["height"])
        assert all(abs(got - want) <= 2 for got, want in zip(request.image.size, wanted, strict=True))
        assert request.image_id is not None
        assert request.image_id.startswith(row["media_id"])
    assert len({request.image_id for request in crops}) == len(crops)

    for stored in world.rows():
        output = stored["output"]
        assert (output["outside"], output["over_limit"]) == (0, 0)
        assert [region["index"] for region in output["regions"]] == [0, 1, 2]
        assert output["regions"][1] == {
            "index": 1,
            "box": [0.5, 0.5, 0.9, 0.9],
            "box_pixels": output["regions"][1]["box_pixels"],
            "label": "animal 1",
            "species": "species 1",
            "sure": True,
        }
        whole = media[stored["media_id"]]
        assert output["regions"][2]["box_pixels"] == [0, 0, whole["original_width"], whole["original_height"]]
        assert (stored["attempts"], stored["finish_reason"]) == (1, "stop")
        assert (stored["prompt_tokens"], stored["completion_tokens"]) == (3 * 80, 3 * 20)

    again, looks = world.run(Script(), run_id="again")
    assert again.requests == []
    assert looks["species"].there == 8


def test_views_show_a_row_a_picture_and_a_row_a_region(world: World) -> None:
    world.run(Script())
    assert world.query("SELECT count(*), sum(len(regions)), min(over_limit) FROM captions_species") == [(8, 24, 0)]
    found = world.query('SELECT "index", label, species, sure, count(*) FROM regions_species GROUP BY ALL ORDER BY ALL')
    assert found == [(index, f"animal {index}", f"species {index}", True, 8) for index in range(3)]
    assert world.query("SELECT count(*) FROM regions_species JOIN media USING (media_id) WHERE is_current") == [(24,)]
    assert world.query("SELECT DISTINCT region.box FROM regions_species WHERE index = 0") == [([0.1, 0.2, 0.3, 0.6],)]
    assert world.query("SELECT count(*) FROM stale") == [(0,)]
    names = {name for (name,) in world.query("SELECT view_name FROM duckdb_views() WHERE view_name LIKE 'regions%'")}
    assert names == {"regions_species"}, "of perspectives on regions only"


def test_without_boxes_nothing_is_asked_and_the_row_is_there(world: World) -> None:
    engine, looks = world.run(Script(boxes=[]))
    assert crops_of(engine) == []
    assert (looks["species"].done, looks["report"].done) == (8, 8)
    assert [row["output"] for row in world.rows()] == [{"regions": [], "outside": 0, "over_limit": 0}] * 8
    assert world.query("SELECT count(*) FROM regions_species") == [(0,)]
    assert world.query("SELECT count(*) FROM stale") == [(0,)]


def test_a_crop_that_fails_makes_a_failure_that_keeps_the_others(world: World) -> None:
    def down(request: EngineRequest, index: int) -> EngineFailure | None:
        return EngineFailure("engine", "no route", retryable=True) if index == 1 else None

    world.configure(captions={"max_attempts": 1})
    engine, looks = world.run(Script(fail=down), run_id="first")
    assert looks["species"].failure_kinds == {"engine": 8}
    assert looks["report"].failure_kinds == {"input_missing": 8}
    assert world.rows() == []
    for failure in world.failures():
        assert re.match(r"region 1, box \[\d+, \d+, \d+, \d+\] of the original: no route", failure["message"])
        assert failure["message"].endswith("(1 of 3 regions failed)")
        assert failure["retryable"]
        assert set(json.loads(failure["partial"])["crops"]) == {"0", "2"}
    assert world.query("SELECT DISTINCT stage, kind, partial IS NULL FROM failures ORDER BY 1") == [
        ("report", "input_missing", True),
        ("species", "engine", False),
    ]

    # What a run cannot finish for another reason keeps them, too.
    segment = "media/dataset=demo/demo-000000.tar"
    data = world.lake.read(segment)
    world.lake.remove(segment)
    engine, looks = world.run(Script(), run_id="no segment")
    assert looks["species"].failure_kinds == {"media_missing": 8}
    world.lake.write(segment, data)

    engine, looks = world.run(Script(), run_id="second")
    assert Counter(request.request_id.split("[")[-1][0] for request in crops_of(engine)) == {"1": 8}
    assert (looks["species"].done, looks["report"].done) == (8, 8)
    assert looks["species"].spent.completion_tokens == 8 * 20, "what the first run paid for is not paid again"
    assert world.failures() == []
    for row in world.rows():
        assert [region["species"] for region in row["output"]["regions"]] == ["species 0", "species 1", "species 2"]
        assert row["completion_tokens"] == 3 * 20
        assert row["attempts"] == 1, "what was the engine's fault does not count"


def test_other_boxes_void_what_was_finished(world: World) -> None:
    def down(request: EngineRequest, index: int) -> EngineFailure | None:
        return EngineFailure("engine", "no route", retryable=True) if index == 1 else None

    world.configure(captions={"max_attempts": 1})
    world.run(Script(fail=down), run_id="first")
    other = Script(boxes=[[0, 0, 50, 50], *BOXES[1:]])
    world.run(other, run_id="redrawn", only=["scene_objects"], force=True)
    engine, _ = world.run(other, run_id="second")
    assert len(crops_of(engine)) == 8 * 3
    assert {tuple(row["output"]["regions"][0]["box"]) for row in world.rows()} == {(0.0, 0.0, 0.5, 0.5)}


def test_a_crop_that_fails_for_good_is_not_tried_again_unless_forced(world: World) -> None:
    def bad(request: EngineRequest, index: int) -> EngineReply | EngineFailure | None:
        if index == 0:
            return EngineFailure("engine", "no route", retryable=True)
        return reply('{"species": 7}') if index == 2 else None

    world.configure(captions={"max_attempts": 2, "max_failure_share": 1.0})
    world.run(Script(fail=bad), run_id="first")
    failures = world.failures()
    assert {(row["kind"], row["retryable"], row["attempts"]) for row in failures} == {("schema", False, 2)}
    assert all("2 of 3 regions failed" in row["message"] for row in failures)
    engine, _ = world.run(Script(), run_id="second")
    assert engine.requests == []
    assert [row["partial"] for row in world.failures()] == [row["partial"] for row in failures]
    engine, looks = world.run(Script(), run_id="third", force=True, only=["species"])
    assert looks["species"].done == 8
    assert len(crops_of(engine)) == 8 * 3


def test_a_label_that_a_region_lacks_is_a_failure_of_kind_prompt(world: World) -> None:
    world.configure({"prompt": "{% if region.index == 1 %}{{ 1 / 0 }}{% endif %}What is it?"})
    _, looks = world.run(Script())
    assert looks["species"].failure_kinds == {"prompt": 8}
    assert all("region 1" in row["message"] and "ZeroDivisionError" in row["message"] for row in world.failures())


def test_a_dead_engine_is_nobodys_failure(world: World) -> None:
    def dead(request: EngineRequest, index: int) -> EngineFailure | None:
        return EngineFailure("engine", "the engine died", retryable=True, fatal=True) if index == 2 else None

    with pytest.raises(EngineFailure, match="the engine died"):
        world.run(Script(fail=dead))
    assert world.failures() == []


def test_three_hundred_boxes(world: World) -> None:
    boxes = [[index % 20 * 5, index // 20 * 5, index % 20 * 5 + 5, index // 20 * 5 + 5] for index in range(300)]
    engine, looks = world.run(Script(boxes=boxes))
    assert looks["species"].done == 8
    assert len(crops_of(engine)) == 8 * 100
    for row in world.rows():
        assert [region["index"] for region in row["output"]["regions"]] == list(range(100))
        assert (row["output"]["outside"], row["output"]["over_limit"]) == (0, 200)
    world.configure({"regions": SPECIES["regions"] | {"max_regions": 300}})
    engine, looks = world.run(Script(boxes=boxes), run_id="second")
    assert len(crops_of(engine)) == 8 * 300
    assert all(len(row["output"]["regions"]) == 300 for row in world.rows())


def test_no_more_crops_are_under_way_than_the_engine_wants(world: World) -> None:
    class Counting(ScriptedEngine):
        now = most = 0

        async def generate(self, request: EngineRequest) -> EngineReply:
            self.now += "[" in request.request_id
            self.most = max(self.most, self.now)
            try:
                return await super().generate(request)
            finally:
                self.now -= "[" in request.request_id

    engine = Counting(Script(boxes=[[index % 90, 0, index % 90 + 10, 50] for index in range(100)]))
    engine.max_in_flight = 70  # more than a run asks for before the engine is there
    caption(world.config, world.lake, [world.shard], lent(engine))
    assert 64 < engine.most <= 70


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"prompt": "What is it?"}, {"species", "report"}),
        ({"regions": SPECIES["regions"] | {"padding": 0.1}}, {"species", "report"}),
        ({"regions": SPECIES["regions"] | {"max_regions": 99}}, {"species", "report"}),
        ({"description": "Says which animal it is."}, set()),
    ],
)
def test_a_change_makes_stale_its_rows_and_their_readers_only(
    world: World, change: dict[str, Any], stale: set[str]
) -> None:
    world.run(Script())
    world.configure(change)
    assert {name for (name,) in world.query("SELECT DISTINCT perspective FROM stale")} == stale
    engine, _ = world.run(Script(), run_id="second")
    names = {match["name"] for request in engine.requests if (match := asked(request.request_id))}
    assert names == stale


def test_boxes_drawn_anew_make_the_row_stale(world: World) -> None:
    world.run(Script())
    other = Script(boxes=BOXES[:1])
    world.run(other, run_id="redrawn", only=["scene_objects"], force=True)
    assert world.query("SELECT DISTINCT perspective, reason FROM stale") == [("species", "inputs_changed")]
    engine, _ = world.run(other, run_id="second")
    assert len(crops_of(engine)) == 8
    assert {len(row["output"]["regions"]) for row in world.rows()} == {1}


def test_regions_are_read_by_others_previewed_and_exported(world: World) -> None:
    engine, _ = world.run(Script(boxes=BOXES[:1]))
    text = next(request.text for request in engine.requests if "/report#" in request.request_id)
    assert text.startswith("Sum up.\n\n## Species\nregions: [{")
    assert '"species":"species 0"' in text

    preview = caption_preview(world.lake, world.shard, bound_of(world.config)["species"])
    assert preview.splitlines()[0] == "| picture | regions | outside | over\\_limit |"
    assert "species species 0" in preview

    for format_ in FORMATS:
        exported = export_dataset(world.lake, "demo", [world.shard], bound_of(world.config), format_)
        assert (exported.samples, len(exported.files)) == (8, 1)
    lines = world.lake.read(f"exports/jsonl/demo/{world.shard.key}.jsonl").decode().splitlines()
    expected = {row["media_id"]: row["output"] for row in world.rows()}
    assert {line["media_id"]: line["captions"]["species"] for line in map(json.loads, lines)} == expected


def test_the_job_makes_them_like_any_other(world: World) -> None:
    pipeline = Pipeline.of(world.config, lent(ScriptedEngine(Script())))
    assert pipeline.ingest().success
    outcome = pipeline.caption(world.shard.key)
    assert outcome.success, outcome.failures
    told = outcome.of("captions/species", world.shard.key).metadata
    assert (told["pictures"], told["new"], told["failed"]) == (8, 8, 0)
    assert outcome.check("captions/species", world.shard.key).passed
    with duckdb.connect(world.lake.path(layout.CATALOG), read_only=True) as views:
        assert views.execute("SELECT count(*) FROM regions_species").fetchall() == [(24,)]


def test_a_region_of_a_region(world: World) -> None:
    detail = {
        "name": "report",
        "prompt": "Look closer at the {{ region.species }}.",
        "schema_fields": [{"name": "caption"}],
        "describe_schema": False,
        "scope": "region",
        "image": True,
        "inputs": ["species"],
        "regions": {"input": "species", "field": "regions", "units": "fraction"},
    }
    (world.folder / "report.json").write_text(json.dumps(detail))
    script = Script()
    answer = lambda request: (  # noqa: E731
        reply('{"caption": "Closer."}') if "/report[" in request.request_id else script(request)
    )
    (report,) = caption(world.config, world.lake, [world.shard], lent(ScriptedEngine(answer)))
    assert report.looks["report"].done == 8
    found = world.query("SELECT DISTINCT index, box, label, species, caption FROM regions_report ORDER BY ALL")
    assert found[1] == (1, [0.5, 0.5, 0.9, 0.9], "animal 1", "species 1", "Closer.")


def test_servers_are_sent_the_crops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer() as server:
        pool = {"kind": "openai", "model": MODEL, "servers": [server.url]}
        config = world.configure(engines={"default": pool})
        (report,) = caption(config, world.lake, [world.shard], open_engine)
        assert report.looks["species"].done == 8
        sent = [call for call in server.calls if call.text.startswith("Which animal")]
        rows_ = world.rows()
        assert len(sent) == sum(len(row["output"]["regions"]) for row in rows_) > 0
        sizes = Counter(_sent_size(call.body) for call in sent)
    media = {row["media_id"]: row for row in read_index(world.lake, world.shard)}
    for row in rows_:
        for region in row["output"]["regions"]:
            x0, y0, x1, y1 = region["box"]
            width, height = media[row["media_id"]]["width"], media[row["media_id"]]["height"]
            near = [
                size
                for size in sizes
                if abs(size[0] - (x1 - x0) * width) <= 2 and abs(size[1] - (y1 - y0) * height) <= 2
            ]
            assert near, region


def _sent_size(body: dict[str, Any]) -> tuple[int, int]:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as image:
        return image.size


@pytest.mark.slow
def test_the_bundled_model_sees_in_each_crop_the_object_that_it_found(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    look = json.loads((prompts.PERSPECTIVE_FOLDER / "scene_caption.json").read_text())
    look |= {"name": "object_caption", "scope": "region", "inputs": ["scene_objects"]}
    look["regions"] = {"input": "scene_objects", "field": "objects", "units": "percent"}
    (folder / "object_caption.json").write_text(json.dumps(look))
    chosen = {"library": ["demo", "./mine"], "enabled": ["scene_objects", "object_caption"]}
    config = make_config(perspectives=chosen)
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    reports = caption(config, lake, shards, open_shared)
    assert sum(report.looks["object_caption"].done for report in reports) == 24
    with open_views(config) as views:
        found = views.execute("SELECT label, caption FROM regions_object_caption").fetchall()
    assert len(found) >= 24
    colours = [label.split()[0] for label, _ in found]
    seen = sum(colour in text for colour, (_, text) in zip(colours, found, strict=True))
    assert seen >= 0.9 * len(found), found
