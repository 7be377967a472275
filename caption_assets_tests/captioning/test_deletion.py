"""Captions of deleted pictures: out of every view at once, out of every file soon, and never back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caption_assets.captioning import recording, rows
from caption_assets.captioning.catalog import open_views, refresh
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media import deletion
from caption_assets.media.deletion import delete, plan_deletion
from caption_assets.media.shard import read_failures, read_index, read_original
from caption_assets.media.verify import verify_shard
from caption_assets_tests.assets.running import answer
from caption_assets_tests.sources.servers import s3_server
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]
_VIEWS = ("media", "captions", "captions_scene_caption", "caption_rows", "stale")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of a bucket on a server of this module's own."""
    import s3fs

    with s3_server():
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"


@pytest.fixture(params=["folder", pytest.param("S3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest) -> str:
    """The pipeline file's `lake`."""
    return "./lake" if request.param == "folder" else f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


def forget(lake: Lake, *media_ids: str) -> int:
    planned = plan_deletion(lake, media_ids)
    return delete(lake, planned, "asked for", "tester", "deletion")


def shown(config: PipelineConfig, media_id: str) -> dict[str, int]:
    """In how many rows of each view a picture is, and whether no shard has lost an item."""
    with open_views(config) as views:
        lost = "SELECT count(*) FROM shards WHERE planned <> media + media_failures"
        assert views.execute(lost).fetchone() == (0,)
        counts = {
            view: views.execute(f"SELECT count(*) FROM {view} WHERE media_id = ?", [media_id]).fetchone()
            for view in _VIEWS
        }
        counts["failures"] = views.execute(
            "SELECT count(*) FROM failures WHERE stage <> 'media' AND media_id = ?", [media_id]
        ).fetchone()
    return {name: count[0] for name, count in counts.items() if count and count[0]}


def files_with(lake: Lake, media_id: str) -> list[str]:
    """The files of the lake, tombstones and media failures aside, whose rows name a picture."""
    paths = [path for path in lake.find("") if path.endswith(".parquet")]
    kept = [path for path in paths if "tombstones/" not in path and "stage=media" not in path and "runs/" not in path]
    return [
        path
        for path in kept
        if "media_id" in (table := lake.read_table(path)).column_names and media_id in table["media_id"].to_pylist()
    ]


def failing(request: EngineRequest) -> EngineReply:
    """No usable count."""
    return reply("no JSON") if "scene_count" in request.request_id else answer(request)


def first_id(lake: Lake, shard: Shard) -> str:
    return str(read_index(lake, shard)[0]["media_id"])


def test_captions_go_from_all_forms_and_failures_and_shards(root: str, make_config: MakeConfig) -> None:
    keep: dict[str, Any] = {"lake": root, "media": {"keep_originals": True}}
    config = make_config(**keep)
    lake = Lake(config.lake)
    one, two, _ = ingest(config, lake)
    caption(config, lake, [one, two], lent(ScriptedEngine(failing)))
    other = make_config(**keep, engines={"default": {"kind": "vllm", "model": "tiny", "args": {"dtype": "float16"}}})
    assert bound_of(other)["scene_caption"].fingerprint != bound_of(config)["scene_caption"].fingerprint
    caption(other, lake, [one], lent(ScriptedEngine(answer)), run_id="second", only=["scene_caption"])
    doomed, stays = first_id(lake, one), read_index(lake, one)[1]["media_id"]
    before = files_with(lake, stays)
    assert len(files_with(lake, doomed)) == len(before) == 1 + 2 + 2 + 1, "index, captions, failures, second form"
    assert set(shown(other, doomed)) >= {"media", "captions", "captions_scene_caption"}

    assert forget(lake, doomed) == 2 + 2 + 1
    assert shown(other, doomed) == shown(config, doomed) == {}
    assert files_with(lake, doomed) == []
    assert files_with(lake, stays) == before
    assert [row["kind"] for row in read_failures(lake, "media", one)] == ["deleted"]
    verified = verify_shard(lake, one)
    assert (verified.pictures, verified.damaged) == (7, {})
    for row in read_index(lake, one):
        assert read_original(lake, row) == Path(row["uri"]).read_bytes()
    refresh(other, lake)
    assert lake.exists("catalog.duckdb")

    engine = ScriptedEngine(answer)
    (report,) = caption(config, lake, [one], lent(engine), run_id="third", only=["scene_caption", "scene_objects"])
    assert engine.requests == []
    assert all(look.total == 7 and look.complete for look in report.looks.values())
    assert files_with(lake, doomed) == []


def test_views_and_exports_do_not_show_it_from_the_tombstone_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    caption(config, lake, [shard], lent(ScriptedEngine(failing)))
    doomed = first_id(lake, shard)
    with monkeypatch.context() as patch, open_views(config) as earlier:
        patch.setattr(deletion, "_complete", lambda *arguments: 0)
        forget(lake, doomed)
        count = f"SELECT count(*) FROM captions WHERE media_id = '{doomed}'"
        assert earlier.execute(count).fetchone() == (0,), "views that were open before"
    assert len(files_with(lake, doomed)) > 4, "nothing was removed so far"
    with open_views(config) as views:
        for view in _VIEWS:
            assert views.execute(f"SELECT count(*) FROM {view} WHERE media_id = ?", [doomed]).fetchone() == (0,)
    for each in FORMATS:
        exported = export_dataset(lake, "demo", [shard], bound_of(config), each)
        assert exported.samples == 7
    engine = ScriptedEngine(answer)
    caption(config, lake, [shard], lent(engine), run_id="next")
    assert doomed[:16] not in {request.request_id.split("/")[1] for request in engine.requests}
    assert files_with(lake, doomed) == [], "a caption run completes the deletion"
    assert shown(config, doomed) == {}


@pytest.mark.parametrize("when", ["while it answers", "while it seals", "just before its last look"])
def test_a_deletion_while_a_caption_run_is_under_way(
    when: str, root: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(lake=root)
    lake, beside = Lake(config.lake), Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    doomed = first_id(lake, shard)
    pending = [doomed]

    def delete_once() -> None:
        if pending:
            forget(beside, pending.pop())

    def script(request: EngineRequest) -> EngineReply:
        if when == "while it answers" and "scene_objects" in request.request_id:
            delete_once()
        return failing(request) if doomed[:16] in request.request_id else answer(request)

    def seal(*arguments: Any) -> None:
        if when == "while it seals":
            delete_once()
        real_seal(*arguments)

    def look(lake: Lake) -> Any:
        looks.append(1)
        if when == "just before its last look" and len(looks) == 2:
            delete_once()
        return real_look(lake)

    looks: list[int] = []
    real_seal, real_look = rows.seal, recording.read_tombstones
    monkeypatch.setattr(rows, "seal", seal)
    monkeypatch.setattr(recording, "read_tombstones", look)
    (report,) = caption(config, lake, [shard], lent(ScriptedEngine(script)))
    assert not pending
    assert files_with(lake, doomed) == []
    assert shown(config, doomed) == {}
    failed = {name: look.failed for name, look in report.looks.items()}
    assert sum(failed.values()) <= 4, f"only the deleted picture can fail, not those whose segment moved: {failed}"
    for name, bound in bound_of(config).items():
        assert len(rows.read_rows(lake, bound, shard)) == 7, name


def test_what_a_killed_run_flushed_after_the_deletion_is_dropped_by_the_next(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    lake = Lake(config.lake)
    (shard, *_) = ingest(config, lake)
    doomed = first_id(lake, shard)
    caption(config, lake, [shard], lent(ScriptedEngine(answer)))
    late = {name: rows.read_rows(lake, bound, shard)[doomed] for name, bound in bound_of(config).items()}
    forget(lake, doomed)
    writer = rows.PartWriter(lake, "killed")
    writer.write([rows.Part(bound, shard, [late[name]]) for name, bound in bound_of(config).items()])
    assert len(files_with(lake, doomed)) == 4
    assert shown(config, doomed) == {}
    caption(config, lake, [shard], lent(ScriptedEngine(answer)), run_id="next", only=["scene_caption"])
    assert files_with(lake, doomed) == []


def test_a_caption_is_not_reused_for_a_deleted_picture(make_config: MakeConfig, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(sorted(pictures.glob("scene*"))[0].read_bytes())
    config = make_config(datasets={"demo": {"kind": "folder", "path": str(folder), "shard_size": 1}})
    lake = Lake(config.lake)
    first, second = ingest(config, lake)
    caption(config, lake, [first], lent(ScriptedEngine(answer)))
    forget(lake, first_id(lake, first))
    engine = ScriptedEngine(answer)
    reports = caption(config, lake, [first, second], lent(engine), run_id="second")
    assert engine.requests == []
    assert all(look.total == 0 for report in reports for look in report.looks.values())
