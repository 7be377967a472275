"""What the catalog says is stale or failed, why, and what redoing it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wants
from caption_assets.lake.store import table_bytes
from caption_assets_tests.lake.hand import NOON, ONE, TEXT, TWO, Hand, look, rows


def test_stale_says_why(hand: Hand) -> None:
    wanted = {"look": look("f2"), "other": look("g1"), "sum": look("s1", ("look", "other"))}
    hand.media(ONE, "fine", "missing", "stale", "failed", "changed")
    good = {each: {"caption": each} for each in ("fine", "failed", "changed", "missing", "stale")}
    hand.captions("other", "g1", TEXT, good)
    hand.captions("look", "f2", TEXT, {each: {"caption": each} for each in ("fine", "changed")})
    hand.captions("look", "f1", TEXT, {"stale": {"caption": "stale"}})
    hand.failures("look", "f2", ["failed"])
    promote(hand.lake, {"look": "f2", "other": "g1"})
    with connect(hand.lake, Wants(wanted)) as views:
        digests = dict(
            views.execute(
                "SELECT media_id, sha256(string_agg(perspective || '=' || output_digest, ',' ORDER BY perspective)) "
                "FROM captions GROUP BY ALL"
            ).fetchall()
        )
    for each, digest in {**digests, "changed": "of something else"}.items():
        hand.captions("sum", "s1", TEXT, {each: {"caption": each}}, input_digest=digest)
    found = rows(hand.lake, wanted, "SELECT perspective, media_id, reason FROM stale ORDER BY ALL")
    assert found == [
        ("look", "failed", "failed"),
        ("look", "missing", "missing"),
        ("look", "stale", "stale"),
        ("sum", "changed", "inputs_changed"),
    ]


@pytest.mark.parametrize(
    ("retryable", "read", "expected"),
    [
        (False, "of something else", ("inputs_changed", "another output of look")),
        (False, None, ("inputs_changed", "another output of look")),  # it failed before there was anything to read
        (False, "now", ("failed", "empty")),
        (True, "of something else", ("failed", "empty")),  # it is tried again in any case
    ],
)
def test_a_settled_failure_of_a_reader_is_stale_once_its_input_says_something_else(
    hand: Hand, retryable: bool, read: str | None, expected: tuple[str, str]
) -> None:
    wanted = {"look": look("f2"), "sum": look("s1", ("look",))}
    hand.media(ONE, "a")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "a"}})
    with connect(hand.lake, Wants(wanted)) as views:
        (now,) = views.execute("SELECT sha256('look=' || output_digest) FROM captions").fetchone() or ("",)
    hand.failures("sum", "s1", ["a"], retryable=retryable, input_digest=now if read == "now" else read)
    assert rows(hand.lake, wanted, "SELECT reason, why FROM stale") == [expected]
    counted = rows(hand.lake, wanted, "SELECT failed, stale FROM status WHERE perspective = 'sum'")
    assert counted == [(0, 1) if expected[0] == "inputs_changed" else (1, 0)]


def test_pictures_that_are_stored_in_another_form_are_stale(hand: Hand) -> None:
    def media(normalisation: str | None) -> list[tuple[object, ...]]:
        with connect(hand.lake, Wants({"look": look()}, normalisation=normalisation)) as views:
            sql = "SELECT shard, state, total, done, stale, why FROM status WHERE perspective = 'media' ORDER BY shard"
            return views.execute(sql).fetchall()

    hand.media(ONE, "a", "b", normalisation="small")
    hand.media(TWO, "c", normalisation="large")
    assert media("large") == [
        (ONE.key, "stale", 2, 0, 2, "normalised as small, now large"),
        (TWO.key, "done", 1, 1, 0, None),
    ]
    assert [row[1] for row in media("small")] == ["done", "stale"]
    assert [row[1] for row in media(None)] == ["done", "done"], "nobody asks for a form"


def test_a_settled_failure_stands_while_an_input_is_missing(hand: Hand) -> None:
    wanted = {"look": look("f2"), "sum": look("s1", ("look",))}
    hand.media(ONE, "a")
    hand.failures("sum", "s1", ["a"], retryable=False, input_digest="of something else")
    assert rows(hand.lake, wanted, "SELECT perspective, reason FROM stale ORDER BY 1") == [
        ("look", "missing"),
        ("sum", "failed"),
    ]


def test_stale_names_the_change_and_estimates_what_redoing_takes(hand: Hand) -> None:
    hand.media(ONE, "a", "b", "c")
    hand.captions("look", "f1", TEXT, {"a": {"caption": "a"}})
    hand.captions("look", "f0", TEXT, {"b": {"caption": "b"}})
    wanted = {
        "look": replace(look("f2"), changes={"f1": ["prompt changed", "schema changed"]}),
        "other": look("g1"),
        "never": look("n1"),
        "our_own": replace(look("o1"), priced=False),
    }
    # in one run both perspectives share ten seconds by their captions: 20 of 100 and 80 of 100
    run = {"run_id": "r", "step": "captions", "dataset": "demo", "shard": ONE.key, "seconds": 10.0, "ended_at": NOON}
    runs = [
        {**run, "perspective": "look", "done": 20, "cost": 4.0},
        {**run, "perspective": "other", "done": 80},
        {**run, "step": "media", "done": 1000},
    ]
    hand.lake.write(layout.run_file("2026-01-01", "r", "captions"), table_bytes(tables.table(runs, tables.RUNS)))
    found = rows(
        hand.lake, wanted, "SELECT media_id, why, seconds, cost FROM stale WHERE perspective = 'look' ORDER BY 1"
    )
    assert found == [
        ("a", "prompt changed, schema changed", pytest.approx(0.1), pytest.approx(0.2)),
        ("b", "an earlier form", pytest.approx(0.1), pytest.approx(0.2)),
        ("c", None, pytest.approx(0.1), pytest.approx(0.2)),
    ]
    by_name = rows(hand.lake, wanted, "SELECT DISTINCT perspective, seconds, cost FROM stale ORDER BY 1")
    assert by_name[1:] == [
        ("never", pytest.approx(0.1), pytest.approx(0.2)),  # as usual
        ("other", pytest.approx(0.1), pytest.approx(0.2)),
        ("our_own", pytest.approx(0.1), None),  # on our own machine
    ]


def test_a_picture_in_two_shards_is_open_in_each_until_each_has_its_row(hand: Hand) -> None:
    hand.media(ONE, "a")
    hand.media(TWO, "a")
    wanted = {"look": look()}
    hand.captions("look", "f2", TEXT, {"a": {"caption": "paid"}}, contributor="maria")
    assert rows(hand.lake, wanted, "SELECT shard, reason FROM stale") == [(TWO.key, "missing")]
    hand.captions("look", "f2", TEXT, {"a": {"caption": "paid"}}, shard=TWO, minute=5, reused_from=ONE.key)
    promote(hand.lake, {"look": "f2"})
    assert rows(hand.lake, wanted, "SELECT * FROM stale") == []
    assert rows(hand.lake, wanted, "SELECT shard, captions FROM shards") == [(ONE.key, 1), (TWO.key, 1)]
    assert rows(hand.lake, wanted, "SELECT count(*) FROM captions_look") == [(1,)], "still one row a picture"
    assert rows(hand.lake, wanted, "SELECT contributor, captions FROM contributors") == [("maria", 1)]


def test_failures_stand_until_there_is_a_caption_or_another_form(hand: Hand) -> None:
    hand.media(ONE, "a", "b")
    hand.failures("look", "f2", ["a", "b"])
    hand.captions("look", "f2", TEXT, {"a": {"caption": "after all"}}, minute=1)
    assert rows(hand.lake, {"look": look("f2")}, "SELECT media_id FROM failures") == [("b",)]
    assert rows(hand.lake, {"look": look("f2")}, "SELECT captions, caption_failures FROM shards") == [(1, 1)]
    assert rows(hand.lake, {"look": look("f3")}, "SELECT media_id FROM failures") == []
