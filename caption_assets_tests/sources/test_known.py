"""What is planned is known without reading all plans, and never wrongly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.base import Item
from caption_assets.sources.identities import ABSENT, IdentityTables, high_of, identities
from caption_assets.sources.known import Known
from caption_assets.sources.planner import Planner, plan_bytes


def planned(lake: Lake, first: int, count: int, size: int = 10) -> Known:
    """Plan items by number, in shards of ten."""
    known = Known(lake, "d")
    known.catch_up()
    planner = Planner(lake, "d", known, None, size)
    planner.offer([Item(f"u{number}", "1", 1) for number in range(first, first + count)])
    planner.close()
    return known


def shards_of(known: Known, *numbers: int) -> list[int]:
    return [int(each) for each in known.find(identities((f"u{number}", "1") for number in numbers))]


@pytest.fixture
def reads(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans that are read."""
    found: list[str] = []
    real = Lake.read_columns

    def read(self: Lake, paths: list[str], *args: object) -> object:
        found.extend(paths)
        return real(self, paths, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Lake, "read_columns", read)
    return found


def test_plans_are_read_once(lake: Lake, reads: list[str]) -> None:
    planned(lake, 0, 100)
    assert reads == [], "who plans needs not read"
    known = Known(lake, "d")
    assert known.catch_up() == 0
    assert (reads, known.next, len(known)) == ([], 10, 100)
    assert shards_of(known, 0, 9, 10, 99, 100) == [0, 0, 1, 9, ABSENT]


def test_a_lost_copy_is_made_anew_a_piece_at_a_time(
    lake: Lake, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caption_assets.sources.known._FIRST", 3)
    planned(lake, 0, 100)
    shutil.rmtree(os.environ["CAPTION_ASSETS_CACHE"])
    known = Known(lake, "d")
    assert known.catch_up(seconds=0) == 7
    assert len(reads) == 3
    again = Known(lake, "d")
    assert again.next == 3, "what was read is kept"
    assert again.catch_up() == 0
    assert len(reads) == 10
    assert shards_of(again, *range(0, 100, 10)) == list(range(10))


def test_another_lake_in_the_same_place_is_noticed(lake: Lake) -> None:
    planned(lake, 0, 50)
    lake.remove_folder("shards")
    known = Known(lake, "d")
    assert (known.next, shards_of(known, 0)) == (0, [ABSENT])
    planned(lake, 100, 50)
    lake.remove_folder("shards")
    for number in range(5):  # as many plans as before, of other items
        lake.write(layout.plan_file(Shard("d", number)), b"")
    assert Known(lake, "d").next == 0


def test_a_lake_set_back_to_an_earlier_state_is_noticed(lake: Lake) -> None:
    planned(lake, 0, 50)
    planned(lake, 50, 10)
    lake.remove(layout.plan_file(Shard("d", 5)))
    assert Known(lake, "d").next == 0
    assert planned(lake, 0, 60).next == 6, "they are planned again"


def test_a_shard_merged_into_a_later_one_leaves_its_items_known(lake: Lake, reads: list[str]) -> None:
    planned(lake, 0, 50)
    shutil.copytree(os.environ["CAPTION_ASSETS_CACHE"], cache := Path(lake.root) / "cache")
    elsewhere = Planner(lake, "d", known := Known(lake, "d"), None, 100)
    for number in (3, 4):
        lake.remove(layout.plan_file(Shard("d", number)))
    table = [Item(f"u{number}", "1", 1) for number in range(30, 50)]
    lake.create(layout.plan_file(Shard("d", 5)), plan_bytes(Shard("d", 5), table))
    assert known.catch_up() == 0
    assert elsewhere.offer(table) == 0
    shutil.rmtree(os.environ["CAPTION_ASSETS_CACHE"])
    shutil.copytree(cache, os.environ["CAPTION_ASSETS_CACHE"])
    del reads[:]
    known = Known(lake, "d")
    assert known.next == 5, "not made anew: the lake is the same one"
    known.catch_up()
    assert reads == [layout.plan_file(Shard("d", 5))]
    assert shards_of(known, 29, 30, 49) == [2, 5, 5], "the latest shard counts"


@pytest.mark.parametrize("damage", ["manifest.json", "*.npy"])
def test_a_damaged_copy_is_made_anew(lake: Lake, damage: str) -> None:
    planned(lake, 0, 50)
    for file in Path(os.environ["CAPTION_ASSETS_CACHE"]).glob(f"planned/*/{damage}"):
        file.write_bytes(file.read_bytes()[:20])
    known = Known(lake, "d")
    known.catch_up()
    assert shards_of(known, 0, 49, 50) == [0, 4, ABSENT]


def test_two_processes_share_a_copy(lake: Lake) -> None:
    planned(lake, 0, 20)
    first, second = Known(lake, "d"), Known(lake, "d")
    one, two = (Planner(lake, "d", known, None, 10) for known in (first, second))
    for start in range(20, 100, 20):
        one.offer([Item(f"u{number}", "1", 1) for number in range(start, start + 10)])
        two.offer([Item(f"u{number}", "1", 1) for number in range(start, start + 20)])
    one.close()
    two.close()
    known = Known(lake, "d")
    known.catch_up()
    assert len(known) == 100
    assert known.next == 10


def test_a_uri_s_shards_are_found_whatever_its_etags(lake: Lake) -> None:
    known = planned(lake, 0, 20)
    planner = Planner(lake, "d", known, None, 10)
    planner.offer([Item("u3", "2", 1)])
    assert known.shards_with(high_of("u3")) == [Shard("d", 0)]
    planner.close()
    assert known.shards_with(high_of("u3")) == [Shard("d", 0), Shard("d", 2)]
    assert known.shards_with(high_of("u99")) == []


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123")), max_size=30), max_size=8))
@settings(deadline=None, max_examples=50)
def test_tables_are_a_map(tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str]]]) -> None:
    tables, expected = IdentityTables(tmp_path_factory.mktemp("tables")), {}
    with tables.locked():
        for number, batch in enumerate(batches):
            tables.add(identities(batch), np.full(len(batch), number, np.int64), {})
            expected.update(dict.fromkeys(batch, number))
        everything = [(uri, etag) for uri in "abcde" for etag in "1234"]
        again = IdentityTables.__new__(IdentityTables)
        again.folder = tables.folder
        again.reload()
    for each in (tables, again):
        assert each.find(identities(everything)).tolist() == [expected.get(key, ABSENT) for key in everything]
        assert {number for _, numbers in each.parts() for number in numbers.tolist()} >= set(expected.values())


def test_big_tables_are_merged_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caption_assets.sources.identities._PART", 7)
    tables = IdentityTables(tmp_path)
    keys = [(f"u{number}", "1") for number in range(1000)]
    with tables.locked():
        for start in range(0, 1000, 50):
            tables.add(identities(keys[start : start + 50]), np.full(50, start, np.int64), {"next": start})
    assert tables.find(identities(keys)).tolist() == [number - number % 50 for number in range(1000)]
    assert len(list(tmp_path.glob("*.npy"))) <= 5
    assert tables.about == {"next": 950}


def test_tables_are_merged_up_to_a_size_and_lose_nothing(tmp_path: Path) -> None:
    tables = IdentityTables(tmp_path, largest=100)
    for start in range(0, 1000, 7):
        some = identities((f"u{number}", "1") for number in range(start, start + 7))
        tables.add(some, np.arange(start, start + 7), {})
    sizes = [len(np.load(file)[0]) for file in tmp_path.glob("*.npy")]
    assert max(sizes) <= 100
    assert len(sizes) < 30, "small ones are"
    again = IdentityTables(tmp_path, largest=100)
    found = again.find(identities((f"u{number}", "1") for number in range(1001)))
    assert found.tolist() == [*range(1001)]
