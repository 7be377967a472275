"""Marks of items that their source no longer has: the latest holds, whoever wrote it, however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from caption_assets.lake import departures, layout, tables
from caption_assets.lake.departures import Departed, departed, hidden, record
from caption_assets.lake.store import Lake

A, B, C = (Departed("demo-000000", f"/{name}.jpg", "1") for name in "abc")


def files(lake: Lake) -> list[str]:
    return lake.list(layout.departures_folder("demo"))


def test_an_item_goes_and_comes_back(lake: Lake) -> None:
    assert departed(lake, "demo") == frozenset()
    record(lake, "demo", [A, B], [C], "one")
    assert departed(lake, "demo") == {A.key, B.key}
    assert departed(lake, "other") == frozenset()
    record(lake, "demo", [], [A], "two")
    assert departed(lake, "demo") == departed(Lake(lake.root), "demo") == {B.key}
    record(lake, "demo", [A], [], "three")
    assert departed(lake, "demo") == {A.key, B.key}
    assert hidden(lake, "demo", retain=True) == frozenset()
    assert hidden(lake, "demo", retain=False) == {A.key, B.key}


def test_marking_again_writes_nothing(lake: Lake) -> None:
    record(lake, "demo", [A, B, A], [], "one")
    before = files(lake)
    assert len(before) == 1
    record(lake, "demo", [B, A], [C], "two")
    record(Lake(lake.root), "demo", [A], [], "three")
    assert files(lake) == before


def test_an_item_that_is_gone_and_seen_is_there(lake: Lake) -> None:
    record(lake, "demo", [A], [A], "one")
    assert files(lake) == []


def test_another_etag_is_another_item(lake: Lake) -> None:
    record(lake, "demo", [A], [], "one")
    record(lake, "demo", [], [Departed(A.shard, A.uri, "2")], "two")
    assert departed(lake, "demo") == {A.key}


def test_a_writer_whose_clock_is_behind_is_heard(folder_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    record(folder_lake, "demo", [A], [], "one")
    past = tables.now() - timedelta(hours=1)
    monkeypatch.setattr(tables, "now", lambda: past)
    record(folder_lake, "demo", [], [A], "two")
    assert departed(folder_lake, "demo") == frozenset()


def test_two_writers_at_once_both_count(folder_lake: Lake) -> None:
    def mark(number: int) -> None:
        record(Lake(folder_lake.root), "demo", [A, Departed("demo-000000", f"/{number}", "1")], [], f"run{number}")

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(mark, range(8)))
    assert departed(folder_lake, "demo") == {A.key, *((f"/{number}", "1") for number in range(8))}


def test_many_files_become_one(lake: Lake) -> None:
    reader = Lake(lake.root)
    expected = set()
    for number in range(departures._MANY_FILES + 3):
        item = Departed("demo-000000", f"/{number}", "1")
        record(lake, "demo", [item], [], f"run{number}")
        if number % 3 == 0:
            record(lake, "demo", [], [item], f"run{number}")
        else:
            expected.add(item.key)
        if number == 5:
            assert departed(reader, "demo") == expected
    assert len(files(lake)) < departures._MANY_FILES
    assert departed(lake, "demo") == departed(reader, "demo") == departed(Lake(lake.root), "demo") == expected
