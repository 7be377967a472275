"""Ticks on a bucket of sorted keys: bounded, complete, and quick to see what arrives at their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caption_assets.arrivals import scan
from caption_assets_tests.arrivals.world import Watch
from caption_assets_tests.sources.s3_stub import S3Stub, s3_stub


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    """A bucket of 4,000 keys under 20 days."""
    keys = [f"2026/{day:04d}/{number:06d}.jpg" for day in range(20) for number in range(200)]
    with s3_stub(S3Stub(keys)) as stub:
        yield stub


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path, kind="bucket", url="s3://b", shard_size=1000)


def add(stub: S3Stub, *keys: str) -> list[str]:
    stub.keys = sorted([*stub.keys, *keys])
    return [f"s3://b/{key}" for key in keys]


def test_a_backlog_is_drained_in_bounded_ticks(stub: S3Stub, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SCAN_SECONDS", 0.0)
    monkeypatch.setattr(scan, "ENDS_SECONDS", 0.0)
    first = watch.tick()
    assert 0 < first.new_items <= 3000, "a page of the end, and one of the scan"
    assert "of ? listed" in first.notes[-1]
    asked = stub.pages
    second = watch.tick()
    assert second.new_items
    assert stub.pages - asked <= 10
    outcomes = watch.until_quiet(200)
    assert len(outcomes) > 5
    assert set(watch.planned.values()) == {1}
    assert len(watch.planned) == 4_000


def test_new_keys_at_the_end_are_found_at_once_by_few_requests(stub: S3Stub, watch: Watch) -> None:
    watch.until_quiet()
    watch.rest()
    asked = stub.pages
    assert watch.tick().new_items == 0
    assert stub.pages - asked <= 2, "an idle tick"
    new = add(stub, *(f"2026/0019/{number:06d}.jpg" for number in range(1000, 1100)), "2026/0020/000000.jpg")
    asked = stub.pages
    assert watch.tick().new_items == 101
    assert stub.pages - asked <= 3
    assert watch.planned.keys() >= set(new)


def test_a_key_that_came_late_is_found_within_the_overlap(stub: S3Stub, watch: Watch) -> None:
    watch.until_quiet()
    watch.rest()
    add(stub, "2026/0019/000150-late.jpg")
    assert watch.tick().new_items == 1
    add(stub, "2026/0003/000500-late.jpg")
    assert watch.tick().new_items == 0, "far from the end: the scan has to find it"
    watch.rest(0)
    watch.until_quiet()
    assert watch.planned["s3://b/2026/0003/000500-late.jpg"] == 1


def test_a_first_tick_sees_the_end_before_the_scan_gets_there(
    stub: S3Stub, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SCAN_SECONDS", 0.0)
    watch.tick()
    assert watch.planned["s3://b/2026/0019/000199.jpg"] == 1


def test_each_folder_of_the_first_level_has_an_end(tmp_path: Path) -> None:
    keys = [f"cam{camera}/2026/{number:06d}.jpg" for camera in range(5) for number in range(500)]
    with s3_stub(S3Stub(keys)) as stub:
        watch = Watch(tmp_path, kind="bucket", url="s3://b", shard_size=1000)
        watch.until_quiet()
        watch.rest()
        add(stub, *(f"cam{camera}/2026/000500.jpg" for camera in range(5)))
        asked = stub.pages
        assert watch.tick().new_items == 5
        assert stub.pages - asked <= 15


@pytest.mark.parametrize("cursor", [None, "", "no JSON", "[]", '{"version": 1, "handed_over": 3}', '{"version": 2}'])
def test_a_cursor_of_any_kind_neither_doubles_nor_loses(stub: S3Stub, watch: Watch, cursor: str | None) -> None:
    watch.until_quiet()
    watch.cursor = cursor
    add(stub, "2026/0003/new.jpg", "2026/0019/zzz.jpg")
    watch.until_quiet()
    assert set(watch.planned.values()) == {1}
    assert len(watch.planned) == 4_002


def test_a_failed_listing_is_told_and_marks_nothing(stub: S3Stub, watch: Watch) -> None:
    watch.until_quiet()
    good, stub.keys = stub.keys, []
    outcome = watch.tick()
    assert not watch.gone
    assert "nothing is marked as gone: none of 4,000 planned items is there" in "; ".join(outcome.notes)
    stub.keys = good[:-5]
    watch.until_quiet()
    assert watch.gone == {f"s3://b/{key}" for key in good[-5:]}
    stub.keys = good
    watch.until_quiet()
    assert not watch.gone
