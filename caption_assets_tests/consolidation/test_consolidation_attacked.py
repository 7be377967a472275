"""Consolidations that are killed, run at once, or meet other writers: same keys, nothing doubled, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.handing import to_hand_over
from caption_assets.arrivals.tick import Outcome
from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.config import LAKE_VARIABLE, PipelineConfig, load_config
from caption_assets.consolidation import merging
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.deletion import delete, plan_deletion
from caption_assets.media.shard import read_index
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards
from caption_assets_tests import invariants
from caption_assets_tests.assets.running import answer
from caption_assets_tests.consolidation.killing import consolidate_once
from caption_assets_tests.consolidation.small import MakeConfig, fill, keys, make, merge, shown
from caption_assets_tests.media.killing import deaths, run
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, lent

TWO = {"library": ["demo"], "enabled": ["scene_caption", "scene_count"]}


@pytest.mark.slow
def test_killed_before_each_change_to_the_lake(
    make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _attack(make_config, tmp_path, pictures, monkeypatch, every=1)


def test_killed_before_some_changes_to_the_lake(
    make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _attack(make_config, tmp_path, pictures, monkeypatch, every=17)


def _attack(
    make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, *, every: int
) -> None:
    folder, lake, undisturbed = tmp_path / "in", tmp_path / "attacked", tmp_path / "undisturbed"
    config = make(make_config, folder, perspectives=TWO)
    fill(config, folder, pictures)
    expected = shown(config)
    shutil.copytree(config.lake, undisturbed)
    assert run(consolidate_once, str(undisturbed), str(config.file)) == 0
    monkeypatch.setenv(LAKE_VARIABLE, str(lake))
    attacked = load_config(config.file)
    seen: set[tuple[str, ...]] = set()
    step = 1
    while True:
        died = next(deaths(Path(config.lake), lake, consolidate_once, str(config.file), first=step), None)
        if died is None:
            break
        assert shown(attacked) == expected, f"killed before change {step}"
        seen.add(tuple(keys(attacked)))
        assert plan_dataset(Lake(str(lake)), "demo", open_source(attacked, "demo"), 6).new_items == 0
        assert run(consolidate_once, str(lake), str(config.file)) == 0
        assert keys(attacked) == ["demo-000003"], f"killed before change {step}"
        assert shown(attacked) == expected, f"killed before change {step}"
        invariants.hold(attacked, Lake(str(lake)))
        _same_files(Lake(str(lake)), Lake(str(undisturbed)))
        step += every
    assert step > 40, "ledger, plan, segment, index, failures, captions, the switch, and all that is removed"
    assert seen == {("demo-000000", "demo-000001", "demo-000002"), ("demo-000003",)}, "never both, never none"


def _same_files(lake: Lake, undisturbed: Lake) -> None:
    """Assert that both hold the same tables and segments: only the ledger may have more versions."""
    kinds = ("media/", "captions/", "shards/", "failures/")
    names = [
        sorted(path.split("-merge-")[0] for path in each.find("") if path.startswith(kinds))
        for each in (lake, undisturbed)
    ]
    assert names[0] == names[1]


def test_two_consolidations_at_once(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, perspectives=TWO)
    fill(config, folder, pictures, (2, 2, 2, 2, 2, 2))
    expected = shown(config)
    with ThreadPoolExecutor(3) as pool:
        reports = [each.result() for each in [pool.submit(merge, config) for _ in range(3)]]
    again = merge(config)
    assert len(keys(config)) == 2
    assert sum(len(report.merged) for report in [*reports, again]) == 2
    assert shown(config) == expected
    invariants.hold(config, Lake(config.lake))


@pytest.mark.parametrize("when", ["before the copy", "after the copy", "after the switch"])
def test_a_deletion_meanwhile(
    when: str, make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, perspectives=TWO)
    shards = fill(config, folder, pictures)
    lake = Lake(config.lake)
    doomed = read_index(lake, shards[1])[0]["media_id"]
    _once(monkeypatch, when, lambda: _forget(Lake(config.lake), doomed))
    merge(config)
    assert len(merge(config).retired) == 3
    assert keys(config) == ["demo-000003"]
    _hold_without(config, lake, doomed)


@pytest.mark.parametrize("when", ["before the copy", "after the copy", "after the switch"])
def test_a_caption_run_meanwhile(
    when: str, make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, perspectives=TWO)
    shards = fill(config, folder, pictures)
    beside = Lake(config.lake)

    def redo() -> None:
        caption(config, beside, shards, lent(ScriptedEngine(answer)), run_id="late", force=True)

    _once(monkeypatch, when, redo)
    merge(config)
    merge(config)
    assert keys(config) == ["demo-000003"]
    invariants.hold(config, beside)
    with open_views(config) as views:
        found = views.execute("SELECT perspective, count(*) FROM captions GROUP BY ALL ORDER BY 1").fetchall()
        assert found == [("scene_caption", 6), ("scene_count", 6)], "what the first run failed at was carried over"
        assert views.execute("SELECT count(*) FROM failures").fetchone() == (0,)
        assert views.execute("SELECT count(DISTINCT shard) FROM caption_rows").fetchone() == (1,)


def test_a_run_that_writes_long_after(make_config: MakeConfig, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, perspectives=TWO)
    shards = fill(config, folder, pictures)
    lake = Lake(config.lake)
    bound = bound_of(config)["scene_count"]
    late = rows.read_rows(lake, bound, shards[1])
    successor = Shard("demo", 3)
    merge(config)
    merged = rows.read_rows(lake, bound, successor)
    other = {**next(iter(late.values())), "media_id": next(iter(read_index(lake, successor)))["media_id"]}
    assert other["media_id"] not in merged, "it failed there"
    rows.PartWriter(lake, "late").write([rows.Part(bound, shards[1], [*late.values(), other])])
    assert rows.read_rows(lake, bound, successor) == merged
    assert len(merge(config).swept) == 1
    found = rows.read_rows(lake, bound, successor)
    assert found.keys() - merged.keys() == {other["media_id"]}
    assert merge(config).swept == []
    assert keys(config) == [successor.key]


def _once(monkeypatch: pytest.MonkeyPatch, when: str, what: Callable[[], None]) -> None:
    """Let something happen at an instant of the next merge."""
    name = {"before the copy": "_copy_media", "after the copy": "copy_failures", "after the switch": "finish"}[when]
    real, pending = getattr(merging, name), [what]

    def instead(*arguments: Any) -> Any:
        if when == "before the copy" and pending:
            pending.pop()()
        result = real(*arguments)
        if pending:
            pending.pop()()
        return result

    monkeypatch.setattr(merging, name, instead)


def _forget(lake: Lake, media_id: str) -> None:
    delete(lake, plan_deletion(lake, [media_id]), "asked for", "tester", "deletion")


def _hold_without(config: PipelineConfig, lake: Lake, doomed: str) -> None:
    invariants.hold(config, lake)
    paths = [path for path in lake.find("") if path.endswith(".parquet") and path.startswith(("media/", "captions/"))]
    for path in paths:
        assert doomed not in lake.read_table(path, ["media_id"])["media_id"].to_pylist(), path
    segments = [path for path in lake.find("media") if path.endswith(".tar")]
    assert segments
    assert all(doomed.encode() not in lake.read(path) for path in segments)
    assert [row["media_id"] for shard in planned_shards(lake, "demo") for row in read_index(lake, shard)].count(
        doomed
    ) == 0


def test_a_shard_that_is_being_filled_is_not_handed_over(
    make_config: MakeConfig, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    config = make(make_config, folder, perspectives=TWO)
    fill(config, folder, pictures)
    lake, seen = Lake(config.lake), []

    def look() -> None:
        outcome = Outcome(Cursor.parse(None), planned=4)
        assert lake.exists(layout.plan_file(Shard("demo", 3)))
        seen.append((to_hand_over(lake, "demo", outcome), outcome.cursor.handed_over))

    _once(monkeypatch, "before the copy", look)
    merge(config)
    assert seen == [([], 2)]
    assert to_hand_over(lake, "demo", Outcome(Cursor.parse(None), planned=4)) == []
