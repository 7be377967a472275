"""The planner: append-only shards, nothing lost, nothing twice, also with several planners at once."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.config import load_config
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.base import Item
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import open_source, plan_dataset, planned_shards, read_plan
from caption_assets_tests.sources import racing
from caption_assets_tests.sources.test_source_folder import touch

PROCESSES = multiprocessing.get_context("spawn")


class Listed:
    """A source whose items the test names."""

    def __init__(self, *items: Item) -> None:
        self.items = list(items)

    def scan(self) -> Iterator[Item]:
        yield from self.items

    def fetch(self, uri: str, etag: str) -> bytes:
        raise NotImplementedError


def item(number: int, etag: str = "1") -> Item:
    return Item(f"u{number}", etag, 1)


def planned_items(lake: Lake) -> list[Item]:
    return [each for shard in planned_shards(lake, "d") for each in read_plan(lake, shard)]


def plan_bytes(lake: Lake) -> dict[str, bytes]:
    return {shard.key: lake.read(layout.plan_file(shard)) for shard in planned_shards(lake, "d")}


def test_planning_again_finds_nothing_new(lake: Lake, folder: Path) -> None:
    for number in range(7):
        touch(folder / f"{number}.jpg")
    first = plan_dataset(lake, "d", FolderSource(folder), 3)
    assert (first.new_items, first.shards) == (7, [Shard("d", 0), Shard("d", 1), Shard("d", 2)])
    assert first.new_shards == first.shards
    before = plan_bytes(lake)
    again = plan_dataset(lake, "d", FolderSource(folder), 3)
    assert (again.new_items, again.new_shards, again.shards) == (0, [], first.shards)
    assert plan_bytes(lake) == before
    assert planned_items(lake) == list(FolderSource(folder).scan())


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (2, [2]), (3, [3]), (4, [3, 1]), (6, [3, 3])])
def test_shards_are_full_but_the_last(lake: Lake, count: int, sizes: list[int]) -> None:
    planned = plan_dataset(lake, "d", Listed(*map(item, range(count))), 3)
    assert [len(read_plan(lake, shard)) for shard in planned.shards] == sizes


def test_a_replaced_file_is_a_new_item_and_a_deleted_one_stays_planned(lake: Lake, folder: Path) -> None:
    touch(folder / "a.jpg")
    touch(folder / "b.jpg")
    plan_dataset(lake, "d", FolderSource(folder), 10)
    before = plan_bytes(lake)
    touch(folder / "a.jpg", mtime=5)
    (folder / "b.jpg").unlink()
    planned = plan_dataset(lake, "d", FolderSource(folder), 10)
    assert (planned.new_items, planned.new_shards) == (1, [Shard("d", 1)])
    assert [Path(each.uri).name for each in planned_items(lake)] == ["a.jpg", "b.jpg", "a.jpg"]
    assert plan_bytes(lake) == before | {"d-000001": lake.read("shards/dataset=d/d-000001.parquet")}


def test_a_file_that_settles_is_planned_then(lake: Lake, folder: Path) -> None:
    fresh = FolderSource(folder, settle_seconds=1000)
    touch(folder / "a.jpg", mtime=10**10)
    (folder / "b.jpg").write_bytes(b"x")
    assert plan_dataset(lake, "d", fresh, 10).new_items == 1
    touch(folder / "b.jpg")
    assert plan_dataset(lake, "d", FolderSource(folder, settle_seconds=10), 10).new_items == 1
    assert [Path(each.uri).name for each in planned_items(lake)] == ["a.jpg", "b.jpg"]


def test_every_name_survives_the_plan(lake: Lake, folder: Path) -> None:
    for name in ("with\nnewline.jpg", "x" * 246 + ".jpg", "e\u0301.jpg", "é.jpg", "图片🙂.jpg", os_name(b"\xff.jpg")):
        touch(folder / name)
    plan_dataset(lake, "d", FolderSource(folder), 2)
    source = FolderSource(folder)
    assert planned_items(lake) == list(source.scan())
    assert all(source.fetch(each.uri, each.etag) == b"x" for each in planned_items(lake))
    assert plan_dataset(lake, "d", FolderSource(folder), 2).new_items == 0


def os_name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def test_source_columns_survive_the_plan(lake: Lake) -> None:
    source = {"caption": "“ä”\n", "n": 1, "nested": {"x": [None, True]}}
    plan_dataset(lake, "d", Listed(Item("u", "e", 1, None, source)), 2)
    assert planned_items(lake)[0].source == source


def test_an_item_listed_twice_is_planned_once(lake: Lake) -> None:
    planned = plan_dataset(lake, "d", Listed(item(1), item(2), item(1), item(1, "2")), 2)
    assert planned.new_items == 3
    assert [each.key for each in planned_items(lake)] == [("u1", "1"), ("u2", "1"), ("u1", "2")]


def test_files_of_others_beside_the_plans_do_no_harm(lake: Lake) -> None:
    plan_dataset(lake, "d", Listed(item(1)), 2)
    for name in ("notes.parquet", "README.md", "e-000007.parquet", "d-000009.parquet.bak", "d-7.parquet"):
        lake.write(f"shards/dataset=d/{name}", b"")
    assert planned_shards(lake, "d") == [Shard("d", 0)]
    assert plan_dataset(lake, "d", Listed(item(1), item(2)), 2).new_shards == [Shard("d", 1)]


def test_datasets_whose_names_begin_alike_do_not_mix(lake: Lake) -> None:
    plan_dataset(lake, "d", Listed(item(1)), 2)
    plan_dataset(lake, "d-000000", Listed(item(1), item(2), item(3)), 2)
    assert [shard.key for shard in planned_shards(lake, "d")] == ["d-000000"]
    assert [shard.key for shard in planned_shards(lake, "d-000000")] == ["d-000000-000000", "d-000000-000001"]


def test_a_source_that_is_gone_plans_nothing(lake: Lake, folder: Path) -> None:
    touch(folder / "a.jpg")
    plan_dataset(lake, "d", FolderSource(folder), 2)
    with pytest.raises(FileNotFoundError):
        plan_dataset(lake, "d", FolderSource(folder / "gone"), 2)
    assert len(planned_items(lake)) == 1
    with pytest.raises(FileNotFoundError):
        read_plan(lake, Shard("d", 5))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("12")), max_size=12), max_size=5), st.integers(1, 5)
)
def test_plans_only_grow_and_hold_each_item_once(
    tmp_path_factory: pytest.TempPathFactory, scans: list[list[tuple[int, str]]], size: int
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    seen: dict[tuple[str, str], None] = {}
    before: dict[str, bytes] = {}
    for numbers in scans:
        items = [item(number, etag) for number, etag in numbers]
        seen.update(dict.fromkeys(each.key for each in items))
        plan_dataset(lake, "d", Listed(*items), size)
        after = plan_bytes(lake)
        assert after.items() >= before.items()
        before = after
        assert [each.key for each in planned_items(lake)] == list(seen)


class Interrupted(Listed):
    """A source during whose first scan another planner plans."""

    def __init__(self, lake: Lake, other: Listed, *items: Item) -> None:
        super().__init__(*items)
        self.lake, self.other = lake, [other]

    def scan(self) -> Iterator[Item]:
        for number, each in enumerate(self.items):
            if number == 3 and self.other:
                plan_dataset(self.lake, "d", self.other.pop(), 2)
            yield each


def test_a_planner_that_is_overtaken_starts_over(lake: Lake) -> None:
    mine = [item(number) for number in range(7)]
    planned = plan_dataset(lake, "d", Interrupted(lake, Listed(*mine[:5], item(9)), *mine), 2)
    keys = [each.key for each in planned_items(lake)]
    assert sorted(keys) == sorted([each.key for each in mine] + [item(9).key])
    assert planned.new_items == sum(len(read_plan(lake, shard)) for shard in planned.new_shards)
    assert planned.shards == planned_shards(lake, "d")


def test_planners_at_once_neither_lose_nor_double_an_item(lake: Lake, folder: Path) -> None:
    for number in range(100):
        touch(folder / f"{number}.jpg")
    start, answers = PROCESSES.Barrier(3), PROCESSES.Queue()
    planners = [
        PROCESSES.Process(target=racing.plan, args=(lake.root, str(folder), start, answers), daemon=True)
        for _ in range(3)
    ]
    for planner in planners:
        planner.start()
    told = [answers.get(timeout=60) for _ in planners]
    for planner in planners:
        planner.join(30)
    keys = [each.key for each in planned_items(lake)]
    assert sorted(keys) == sorted(each.key for each in FolderSource(folder).scan())
    assert sum(count for count, _ in told) == 100
    assert sorted(key for _, shards in told for key in shards) == [shard.key for shard in planned_shards(lake, "d")]


def test_open_source_settles_for_the_sensor_only(tmp_path: Path, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "lake: lake\nperspectives: {enabled: [x]}\nengines: {default: {kind: vllm, model: m}}\n"
        "datasets: {d: {kind: folder, path: pictures, settle_seconds: 1000, recursive: false}}\n"
    )
    config = load_config(file)
    assert len(list(open_source(config, "d").scan())) == 1
    assert list(open_source(config, "d", settle=True).scan()) == []
