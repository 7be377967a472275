"""Small finished shards become full ones: the same pictures, captions and failures under another key."""

from __future__ import annotations

from pathlib import Path

import pytest

from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.handing import to_hand_over
from caption_assets.arrivals.tick import Outcome, tick
from caption_assets.captioning.catalog import open_views
from caption_assets.events.completion import completion
from caption_assets.events.conditions import last_arrival
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.lake import layout, tables
from caption_assets.lake.departures import Departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import begin, live
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.media.verify import verify_shard
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards
from caption_assets_tests import invariants
from caption_assets_tests.assets.running import answer
from caption_assets_tests.consolidation.small import MakeConfig, failing, fill, keys, make, merge, shown
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent


def test_what_is_merged_says_what_its_parts_said(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    lake = Lake(config.lake)
    shards = fill(config, folder, pictures)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    shards += ingest(config, lake)[len(shards) :]
    assert [shard.key for shard in shards] == [f"demo-{number:06}" for number in range(4)]
    before, told = shown(config), completion(config, lake, "demo", tables.now())
    assert (len(before["media"]), len(before["captions"]), len(before["failures"])) == (6, 6 * 4 - 4, 4 + 1)
    row = read_index(lake, shards[1])[0]
    data = read_picture(lake, row)

    report = merge(config)
    assert keys(config) == ["demo-000003", "demo-000004"], "the fourth did not fit"
    assert str(report) == (
        "demo: 3 shards → demo-000004 (6 items, 6 pictures, 20 captions); small shards left alone: 1 too few; "
        "files of 3 merged shards removed"
    )
    assert report.retired == shards[:3]
    assert shown(config) == before
    invariants.hold(config, lake)
    assert (verify_shard(lake, Shard("demo", 4)).pictures, verify_shard(lake, Shard("demo", 4)).damaged) == (6, {})
    assert read_picture(lake, row) == data, "whoever holds the old index reads on"
    assert [path for path in lake.find("") if any(shard.key in path for shard in shards[:3])] == []
    after = completion(config, lake, "demo", tables.now())
    assert told
    assert after
    assert told.id == after.id, "nothing new is complete"

    engine = ScriptedEngine(answer)
    caption(config, lake, [Shard("demo", 4)], lent(engine), run_id="later", only=["scene_caption", "scene_objects"])
    assert engine.requests == []
    assert plan_dataset(lake, "demo", open_source(config, "demo"), 6).new_items == 0
    assert str(merge(config)) == "demo: small shards left alone: 1 too few"


def test_the_number_after_a_merge_is_new(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    fill(config, folder, pictures)
    merge(config)
    assert keys(config) == ["demo-000003"]
    fill(config, folder, pictures, (1,), captions=False)
    assert keys(config) == ["demo-000003", "demo-000004"]


def test_earlier_forms_come_along(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    shards = fill(config, folder, pictures)
    lake, half = Lake(config.lake), {"default": {"kind": "vllm", "model": "tiny", "args": {"dtype": "float16"}}}
    other = make(make_config, folder, engines=half)
    assert str(merge(other)) == "demo: small shards left alone: 3 unfinished"
    caption(other, lake, shards, lent(ScriptedEngine(answer)), run_id="third")
    assert len(merge(other).merged) == 1
    for each, failed in ((config, 2), (other, 0)):
        for name, bound in bound_of(each).items():
            count = "SELECT count(*) FROM read_parquet(?)"
            folder_of = layout.captions_folder(name, bound.fingerprint, Shard("demo", 3))
            with open_views(each) as views:
                found = views.execute(count, [f"{lake.path(folder_of)}/*.parquet"]).fetchone()
            assert found == (6 - (failed if name in {"scene_count", "synthesized_caption"} else 0),)


@pytest.mark.parametrize(
    ("section", "why"), [({"older_than_hours": 1}, "young"), ({}, "unfinished"), ({"busy": 1}, "in a run")]
)
def test_what_has_to_wait(
    section: dict[str, int], why: str, make_config: MakeConfig, tmp_path: Path, pictures: Path
) -> None:
    folder, busy = tmp_path / "in", {"demo-000001", "demo-000002"} if section.pop("busy", 0) else set()
    config = make(make_config, folder, consolidation={"older_than_hours": 0} | section)
    fill(config, folder, pictures, captions=why != "unfinished")
    report = merge(config, busy=lambda: busy)
    assert not report.merged
    assert report.waiting[why] == (2 if busy else 3)
    assert len(keys(config)) == 3


def test_damaged_pictures_are_not_spread(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    shards = fill(config, folder, pictures, (2, 2, 2, 2))
    lake = Lake(config.lake)
    segment = Path(lake.path(layout.segment(shards[1])))
    segment.write_bytes(segment.read_bytes()[:700])
    report = merge(config)
    assert report.waiting == {"damaged": 1}
    assert keys(config) == [shards[1].key, "demo-000004"]


def test_a_picture_in_two_parts_is_stored_once(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    fill(config, folder, pictures, (2,))
    lake, double = Lake(config.lake), next(folder.iterdir())
    for number in range(2):
        (folder / f"zz{number}{double.suffix}").write_bytes(double.read_bytes())
        shards = ingest(config, lake)
    caption(config, lake, shards, lent(ScriptedEngine(failing)), run_id="copies")
    before = shown(config)
    assert merge(config).merged[0].pictures == 2
    after = shown(config)
    assert [row[0] for row in after["media"]] == [row[0] for row in before["media"]]
    assert {row[-1] for row in after["contributors"]} == {row[-1] for row in before["contributors"]}
    with open_views(config) as views:
        copies = "SELECT perspective, media_id, shard, reused_from FROM captions WHERE reused_from IS NOT NULL"
        assert views.execute(copies).fetchall() == []
        assert views.execute("SELECT media, pictures FROM shards").fetchall() == [(4, 2)]
    invariants.hold(config, lake)


def test_shards_that_say_otherwise_of_a_picture_stay_apart(
    make_config: MakeConfig, tmp_path: Path, pictures: Path
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    fill(config, folder, pictures, (2, 2))
    lake, double = Lake(config.lake), min(folder.iterdir())
    (folder / f"zz{double.suffix}").write_bytes(double.read_bytes())
    *_, third = ingest(config, lake)
    open_ = lent(ScriptedEngine(lambda request: answer(request)))
    caption(config, lake, [third], open_, run_id="own", force=True, only=["scene_count"])
    with open_views(config) as views:  # the first shard's count failed: nothing is said otherwise so far
        assert views.execute("SELECT count(*) FROM caption_rows WHERE shard = ?", [third.key]).fetchone() == (1,)
    caption(config, lake, [third], open_, run_id="own")
    assert len(merge(config).merged) == 1


def test_departed_items_stay_departed(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    (first, *_) = fill(config, folder, pictures)
    lake = Lake(config.lake)
    gone = [Departed(first.key, row["uri"], row["etag"]) for row in read_index(lake, first)[:1]]
    record(lake, "demo", gone, [], "scan")
    before = shown(config)
    assert len(before["media"]) == 5
    assert len(merge(config).merged) == 1
    assert shown(config) == before
    with open_views(config) as views:
        assert views.execute("SELECT shard FROM departures").fetchall() == [("demo-000003",)]
    record(lake, "demo", [], gone, "scan")
    assert len(shown(config)["media"]) == 6


def test_merged_shards_can_be_merged_again(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    shards = fill(config, folder, pictures, (2, 2, 2, 2, 2, 2))
    before = shown(config)
    assert len(merge(config).merged) == 2
    wide = make(make_config, folder, datasets={"shard_size": 20})
    assert len(merge(wide).merged) == 1
    assert keys(wide) == ["demo-000008"]
    assert shown(wide) == before
    assert {live(Lake(config.lake), shard).key for shard in [*shards, Shard("demo", 6)]} == {"demo-000008"}


def test_files_of_merged_shards_stay_for_a_while(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, consolidation={"older_than_hours": 0, "grace_hours": 1})
    (first, *_) = fill(config, folder, pictures)
    before = shown(config)
    lake = Lake(config.lake)
    assert merge(config).swept == []
    assert lake.exists(layout.media_index(first))
    assert shown(config) == before
    jsonl = next(each for each in FORMATS if each.name == "jsonl")
    assert export_dataset(lake, "demo", planned_shards(lake, "demo"), bound_of(config), jsonl).samples == 6
    assert plan_dataset(lake, "demo", open_source(config, "demo"), 6).new_items == 0
    soon = make(make_config, folder)
    assert len(merge(soon).swept) == 3
    assert shown(soon) == before


def test_a_number_that_the_planner_took_is_the_planner_s(
    make_config: MakeConfig, tmp_path: Path, pictures: Path
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    shards = fill(config, folder, pictures)
    lake = Lake(config.lake)
    begin(lake, "demo", shards, Shard("demo", 3), "died before its claim")
    assert fill(config, folder, pictures, (1,), captions=False) == [Shard("demo", 3)]
    assert len(keys(config)) == 4
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM shards").fetchall() == [(4,)]
    assert len(merge(config).merged) == 1
    assert keys(config) == ["demo-000003", "demo-000004"]
    assert [len(read_index(lake, Shard("demo", number))) for number in (3, 4)] == [1, 6]


def test_a_merge_that_is_announced_too_late_hides_nobody_s_shard(
    make_config: MakeConfig, tmp_path: Path, pictures: Path
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    shards = fill(config, folder, pictures)
    lake = Lake(config.lake)
    assert begin(lake, "demo", shards[:2], shards[2], "looked for a number before that was planned, and died")
    assert keys(config) == [shard.key for shard in shards], "it has not claimed the plan"
    outcome = Outcome(Cursor.parse(None), planned=3)
    lake.remove(layout.media_index(shards[2]))
    assert to_hand_over(lake, "demo", outcome) == [shards[2]]
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM shards").fetchall() == [(2,)], "a view cannot look into plans"
    tick(config, lake, "demo", Cursor.parse(None), tables.now())
    with open_views(config) as views:
        assert views.execute("SELECT count(*) FROM shards").fetchall() == [(3,)]


def test_the_last_arrival_is_that_of_the_items(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder)
    lake = Lake(config.lake)
    fill(config, folder, pictures)
    fill(config, folder, pictures, (1,), captions=False)
    before = last_arrival(lake, "demo")
    assert len(merge(config).merged) == 1
    assert keys(config) == ["demo-000003", "demo-000004"]
    assert last_arrival(lake, "demo") == before
