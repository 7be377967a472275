"""What a source no longer has leaves the views with its marks, and comes back with them."""

from __future__ import annotations

from typing import Any

import pytest

from caption_assets.lake import hidden, layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wants
from caption_assets.lake.departures import Departed, record
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import table_bytes
from caption_assets_tests.lake.hand import NOON, ONE, TEXT, TWO, Hand, look

_PER_PICTURE = ("media", "captions", "captions_look", "caption_rows", "stale", "failures")


def gone(uri: str, shard: Shard = ONE) -> Departed:
    return Departed(shard.key, uri, "1")


def shown(hand: Hand, retained: tuple[str, ...] = ()) -> dict[str, list[tuple[Any, ...]]]:
    """Shard and picture of all rows of the views."""
    with connect(hand.lake, Wants({"look": look()}, retained)) as views:
        found = {
            name: views.execute(f"SELECT shard, media_id FROM {name} ORDER BY ALL").fetchall() for name in _PER_PICTURE
        }
        sums = "SELECT shard, planned, departed, media, pictures, captions, caption_failures FROM shards ORDER BY 1"
        found["shards"] = views.execute(sums).fetchall()
        found["departures"] = views.execute("SELECT uri, etag, retained FROM departures ORDER BY 1").fetchall()
    return found


def fill(hand: Hand) -> None:
    """Two shards: a and b captioned, c failed, d without anything; a stands in both."""
    hand.media(ONE, "a", "b", "c", "d")
    hand.media(TWO, "a", "e")
    hand.captions("look", "f2", TEXT, {each: {"caption": each} for each in "ab"}, minute=1)
    hand.captions("look", "f2", TEXT, {each: {"caption": each} for each in "ae"}, TWO)
    hand.failures("look", "f2", ["c"])
    promote(hand.lake, {"look": "f2"})


def test_all_rows_of_an_item_leave_and_come_back(hand: Hand) -> None:
    fill(hand)
    before = shown(hand)
    record(hand.lake, "demo", [gone(each) for each in "bcd"], [], "run")
    after = shown(hand)
    kept = {(ONE.key, "a"), (TWO.key, "a"), (TWO.key, "e")}
    for name in _PER_PICTURE:
        assert set(after[name]) == set(before[name]) & kept, name
        assert set(before[name]) - kept, f"{name} had something to lose"
    assert after["shards"] == [(ONE.key, 1, 3, 1, 1, 1, 0), (TWO.key, 2, 0, 2, 2, 2, 0)]
    assert after["departures"] == [(each, "1", False) for each in "bcd"]
    record(hand.lake, "demo", [], [gone(each) for each in "bcd"], "run")
    assert shown(hand) == before


def test_a_picture_stays_in_the_shards_where_another_item_has_its_bytes(hand: Hand) -> None:
    fill(hand)
    head = {"dataset": "demo", "shard": ONE.key, "etag": "1"}
    index = [{**head, "uri": uri, "media_id": "a"} for uri in ("a", "copy of a")]
    index += [{**head, "uri": "b", "media_id": "b"}]
    hand.lake.write(layout.media_index(ONE), table_bytes(tables.table(index, tables.MEDIA)))
    second = {"dataset": "demo", "shard": TWO.key, "etag": "1", "uri": "third copy of a", "media_id": "a"}
    hand.lake.write(layout.media_index(TWO), table_bytes(tables.table([second], tables.MEDIA)))
    record(hand.lake, "demo", [gone("a")], [], "run")
    assert shown(hand)["media"] == [(ONE.key, "a"), (ONE.key, "b"), (TWO.key, "a")]
    assert (ONE.key, "a") in shown(hand)["captions"]
    record(hand.lake, "demo", [gone("copy of a")], [], "run")
    assert (ONE.key, "a") not in shown(hand)["caption_rows"]
    assert (TWO.key, "a") in shown(hand)["captions"]


def test_another_version_under_the_same_uri_stays(hand: Hand) -> None:
    fill(hand)
    record(hand.lake, "demo", [Departed(ONE.key, "a", "0")], [], "run")
    record(hand.lake, "other", [gone("a")], [], "run")
    assert (ONE.key, "a") in shown(hand)["media"]
    assert (ONE.key, "a") in shown(hand)["captions"] + shown(hand)["caption_rows"]


def test_a_dataset_that_retains_keeps_all_and_still_lists_them(hand: Hand) -> None:
    fill(hand)
    before = shown(hand)
    record(hand.lake, "demo", [gone("b")], [], "run")
    after = shown(hand, ("demo",))
    assert after.pop("departures") == [("b", "1", True)]
    before.pop("departures")
    assert after == before


def test_a_shard_whose_items_are_all_gone_is_still_listed(hand: Hand) -> None:
    fill(hand)
    record(hand.lake, "demo", [gone("a"), gone("e", TWO)], [], "run")
    assert shown(hand)["shards"][1] == (TWO.key, 0, 2, 0, 0, 0, 0)


def test_a_failure_of_media_leaves_with_its_item(hand: Hand) -> None:
    hand.media(ONE, "a")
    row = {"stage": "media", "dataset": "demo", "shard": ONE.key, "uri": "a", "etag": "1", "kind": "gone"}
    failed = tables.table([{**row, "created_at": NOON}], tables.FAILURES)
    hand.lake.write(layout.failures_file("media", ONE), table_bytes(failed))
    assert len(shown(hand)["failures"]) == 1
    record(hand.lake, "demo", [gone("a")], [], "run")
    assert shown(hand)["failures"] == []


def test_views_that_were_made_before_know_of_later_marks_where_media_are_joined(hand: Hand) -> None:
    fill(hand)
    with connect(hand.lake, Wants({"look": look()})) as views:
        count = "SELECT count(*) FROM captions JOIN media USING (media_id, shard)"
        assert views.execute(count).fetchone() == (3,)
        record(hand.lake, "demo", [gone("b")], [], "run")
        assert views.execute(count).fetchone() == (2,)


def test_many_shards_with_departed_items(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "_MANY_SHARDS", 1)
    fill(hand)
    record(hand.lake, "demo", [gone("b"), gone("e", TWO)], [], "run")
    assert set(shown(hand)["captions"]) < {(ONE.key, "a"), (TWO.key, "a")}
