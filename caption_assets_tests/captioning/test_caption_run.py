"""Captioning on real vLLM: everything once, nothing twice, only what changed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.engine.lazy import OpenEngine
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets.perspectives import from_arrow_value, json_schema, validate_output
from caption_assets_tests.support import SharedEngine, bound_of, caption, ingest

MakeConfig = Callable[..., PipelineConfig]


def test_every_picture_gets_a_valid_row_from_every_perspective(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    reports = caption(config, lake, shards, open_shared)

    assert sorted(report.shard for report in reports) == shards
    assert len(shards) == 3
    for name, bound in bound_of(config).items():
        for shard in shards:
            stored = rows.read_rows(lake, bound, shard)
            assert stored.keys() == {row["media_id"] for row in read_index(lake, shard)}
            for row in stored.values():
                output = from_arrow_value(bound.perspective, row["output"])
                assert validate_output(bound.perspective, json.dumps(output)) == output
                assert row["output_digest"] == rows.output_digest(output)
                assert row["perspective"] == name
                assert row["fingerprint"] == bound.fingerprint
                assert row["completion_tokens"] > 0
    assert shared_engine.opened == 1, "one load for all shards"
    assert shared_engine.requests >= 24 * 4
    assert json_schema(bound_of(config)["scene_count"].perspective)["properties"]["count"]["type"] == "integer"


def test_perspectives_of_a_picture_share_its_image_tokens(make_config: MakeConfig, open_shared: OpenEngine) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    (report,) = caption(config, lake, shards, open_shared)
    cached = [report.looks[name].cached_tokens for name in ("scene_caption", "scene_objects", "scene_count")]
    # The first perspective computes the picture's tokens, the other two find its full blocks (2 x 32) in the cache.
    assert sum(cached) >= 2 * 64 * 8


def test_a_finished_shard_loads_no_model_and_changes_no_file(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    caption(config, lake, shards, open_shared)
    before = _files(lake)
    shared_engine.opened = shared_engine.requests = 0
    (report,) = caption(config, lake, shards, open_shared, run_id="again")
    assert (shared_engine.opened, shared_engine.requests) == (0, 0)
    assert all(look.there == look.total == 8 and look.complete for look in report.looks.values())
    assert _files(lake) == before


def test_sealing_leaves_one_file(make_config: MakeConfig, open_shared: OpenEngine) -> None:
    config = make_config()
    lake = Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    caption(config, lake, [shard], open_shared)
    for bound in bound_of(config).values():
        files = lake.list(layout.captions_folder(bound.name, bound.fingerprint, shard))
        assert len(files) == 1
        assert files[0].startswith("sealed-")


def test_a_changed_prompt_makes_stale_its_rows_and_their_readers(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine, tmp_path: Path
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    caption(config, lake, shards, open_shared)
    old = {name: rows.read_rows(lake, each, shards[0]) for name, each in bound_of(config).items()}

    _edit(tmp_path / "edited", "scene_count", prompt_suffix=" Answer shortly.")
    changed = make_config(
        perspectives={"library": ["demo", "./edited"], "enabled": list(bound_of(config))},
    )
    with open_views(changed) as views:
        stale = views.execute(
            "SELECT perspective, reason, count(*) FROM stale WHERE shard = ? GROUP BY ALL", [shards[0].key]
        )
        assert sorted(stale.fetchall()) == [("scene_count", "stale", 8), ("synthesized_caption", "stale", 8)]

    shared_engine.requests = 0
    (report,) = caption(changed, lake, shards, open_shared, run_id="second")
    assert report.looks["scene_caption"].there == report.looks["scene_objects"].there == 8
    assert report.looks["scene_count"].done + report.looks["scene_count"].failed == 8
    for name in ("scene_caption", "scene_objects"):
        assert rows.read_rows(lake, bound_of(changed)[name], shards[0]) == old[name]
    # The old form stays, and going back to it costs nothing.
    shared_engine.requests = 0
    (back,) = caption(config, lake, shards, open_shared, run_id="third")
    assert shared_engine.requests == 0
    assert back.looks["scene_count"].there == 8


def test_force_does_it_again_and_the_new_rows_count(make_config: MakeConfig, open_shared: OpenEngine) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    caption(config, lake, shards, open_shared, run_id="first")
    (report,) = caption(config, lake, shards, open_shared, run_id="second", only=["scene_count"], force=True)
    assert report.looks["scene_count"].done == 8
    stored = rows.read_rows(lake, bound_of(config)["scene_count"], shards[0])
    assert {row["run_id"] for row in stored.values()} == {"second"}


def test_a_picture_in_another_shard_is_reused_not_paid_again(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copyfile(sorted(pictures.glob("scene*"))[0], folder / f"{name}.png")
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder), "shard_size": 1}})
    lake = Lake(config.lake)
    first, second = ingest(config, lake)
    caption(config, lake, [first], open_shared)
    shared_engine.requests = 0
    (report,) = caption(config, lake, [second], open_shared, run_id="second")
    assert shared_engine.requests == 0
    assert all(look.reused == 1 for look in report.looks.values())
    for bound in bound_of(config).values():
        (row,) = rows.read_rows(lake, bound, second).values()
        assert row["reused_from"] == first.key
        assert row["shard"] == second.key


def test_a_subset_reads_its_inputs_from_the_lake(
    make_config: MakeConfig, open_shared: OpenEngine, shared_engine: SharedEngine
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    shards = ingest(config, lake)[:1]
    caption(config, lake, shards, open_shared, only=["scene_caption", "scene_objects", "scene_count"])
    (report,) = caption(config, lake, shards, open_shared, only=["synthesized_caption"], run_id="second")
    assert report.looks["synthesized_caption"].done == 8


def test_a_changed_input_output_makes_its_readers_stale(make_config: MakeConfig, open_shared: OpenEngine) -> None:
    config = make_config()
    lake = Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    caption(config, lake, [shard], open_shared)
    bound = bound_of(config)["scene_count"]
    stored = rows.read_rows(lake, bound, shard)
    victim, row = next(iter(stored.items()))
    output = {"count": 0, "background": "changed by hand"}
    changed = {
        **row,
        "output": output,
        "output_digest": rows.output_digest(output),
        "created_at": row["created_at"].replace(year=row["created_at"].year + 1),
    }
    rows.PartWriter(lake, "hand").write([rows.Part(bound, shard, [changed])])
    with open_views(config) as views:
        assert views.execute(
            "SELECT perspective, media_id, reason FROM stale WHERE shard = ?", [shard.key]
        ).fetchall() == [("synthesized_caption", victim, "inputs_changed")]
    (report,) = caption(config, lake, [shard], open_shared, run_id="second")
    assert report.looks["synthesized_caption"].done == 1
    assert report.looks["synthesized_caption"].there == 7


def test_without_media_the_error_says_so(make_config: MakeConfig, open_shared: OpenEngine) -> None:
    config = make_config()
    lake = Lake(config.lake)
    with pytest.raises(Exception, match="demo-000007 has no media yet; materialize its media first"):
        caption(config, lake, [layout.Shard("demo", 7)], open_shared)


def _files(lake: Lake) -> dict[str, int]:
    root = Path(lake.root)
    return {
        str(file): file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file() and file.name != "current.json"
    }


def _edit(folder: Path, name: str, prompt_suffix: str) -> None:
    """Copy a demo perspective with a changed prompt."""
    import caption_assets.demo

    source = Path(caption_assets.demo.__file__).parent / "perspectives" / f"{name}.json"
    document = json.loads(source.read_text())
    document["prompt"] += prompt_suffix
    folder.mkdir()
    (folder / f"{name}.json").write_text(json.dumps(document))
