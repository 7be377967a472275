"""`recaptioning`: what policy allows, no more a day than allowed, and never what is being worked on already."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from caption_assets import run_tags
from caption_assets.engine.lazy import LazyEngine
from caption_assets.engine.protocol import EngineFailure
from caption_assets.lake import tables
from caption_assets.run_tags import Cause
from caption_assets_tests.sensors.changing import Changing, perspectives, what, why_not

ALL = {"policy": "all"}
TWO = {"scene_caption", "synthesized_caption"}
DOWN = EngineFailure("engine", "the server is away", retryable=True)
Clock = Callable[[timedelta], None]


@pytest.fixture
def changing(tmp_path: Path, pictures: Path) -> Changing:
    return Changing(tmp_path, pictures)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Moves the sensor's clock."""

    def move(by: timedelta) -> None:
        monkeypatch.setattr(tables, "now", lambda: datetime.now(UTC) + by)

    return move


def test_a_changed_prompt_redoes_what_it_makes_stale_and_no_more(changing: Changing) -> None:
    changing.load(recaption=ALL)
    changing.caption_all()
    assert why_not(changing.tick()) == "nothing to do"
    changing.change("scene_caption")
    (request,) = changing.tick().run_requests or []
    assert what(request) == ("street-000000", "street-000002", TWO)
    assert request.tags[run_tags.CAUSE] == "recaptioning"
    assert request.tags[run_tags.PICTURES] == "6"
    assert request.tags[run_tags.WHY].startswith("captions again 6 pictures of ")
    before = len(changing.engine.requests)
    assert changing.run(request).success
    assert len(changing.engine.requests) - before == 2 * 6
    assert not changing.stale()
    assert why_not(changing.tick()) == "nothing to do"
    assert changing.query("SELECT DISTINCT cause FROM runs WHERE step = 'captions' ORDER BY 1") == [
        ("recaptioning",),
        (None,),
    ]


def test_the_tick_explains_itself(changing: Changing, capfd: pytest.CaptureFixture[str]) -> None:
    changing.load(recaption=ALL)
    changing.caption_all()
    changing.change("scene_caption")
    capfd.readouterr()
    changing.tick()
    told = "".join(capfd.readouterr())
    assert "captions again 6 pictures of street-000000 … street-000002 with scene_caption, synthesized_caption" in told
    assert "(prompt changed; input scene_caption changed)" in told


def test_off_leaves_what_is_stale(changing: Changing) -> None:
    changing.caption_all()
    changing.change()
    assert changing.stale()["scene_caption", "stale"] == 6
    assert why_not(changing.tick()) == "nothing to do: policy leaves 3 shards with missing or stale rows as they are"
    assert why_not(changing.tick()).startswith("nothing to do: policy leaves"), "as remembered"


def test_new_only_makes_what_never_was_and_leaves_what_is_stale(changing: Changing) -> None:
    changing.load(recaption={"policy": "new_only"})
    changing.caption_all()
    changing.change("scene_caption")
    assert not changing.tick().run_requests
    enabled = ["scene_caption", "scene_count", "scene_objects", "synthesized_caption"]
    changing.load(perspectives=perspectives(enabled))
    (request,) = changing.tick().run_requests or []
    assert what(request)[2] == {"scene_objects"}, "the synthesis would find its other inputs in earlier forms"
    assert changing.run(request).success
    assert changing.stale()["scene_objects", "missing"] == 0
    assert changing.stale()["scene_caption", "stale"] == 6


def test_a_perspective_may_have_a_policy_of_its_own(changing: Changing) -> None:
    changing.load(recaption={**ALL, "perspectives": {"synthesized_caption": {"policy": "off"}}})
    changing.caption_all()
    changing.change("scene_caption")
    (request,) = changing.tick().run_requests or []
    assert what(request)[2] == {"scene_caption"}


def test_the_limit_of_a_day_is_counted_from_the_lake(changing: Changing, later: Clock) -> None:
    changing.load(recaption={**ALL, "pictures_per_day": 4})
    changing.caption_all()
    changing.change()
    (request,) = changing.tick().run_requests or []
    assert what(request)[:2] == ("street-000000", "street-000001")
    assert changing.run(request).success
    changing.cursor = None  # the limit does not hang on it
    assert why_not(changing.tick()) == "limit of 4 pictures a day reached; 2 left"
    changing.change("scene_count", " Count twice.")
    changing.change("scene_count", " Count again.")
    assert why_not(changing.tick()) == "limit of 4 pictures a day reached; 6 left", "changes do not renew it"
    later(timedelta(days=1))
    (request,) = changing.tick().run_requests or []
    assert run_tags.PICTURES in request.tags


def test_a_shard_above_the_limit_is_a_day_s_first(changing: Changing) -> None:
    changing.load(recaption={**ALL, "pictures_per_day": 1})
    changing.caption_all()
    changing.change()
    (request,) = changing.tick().run_requests or []
    assert what(request)[:2] == ("street-000000", "street-000000")
    assert changing.run(request).success
    assert why_not(changing.tick()) == "limit of 1 pictures a day reached; 4 left"


def test_a_perspective_may_have_a_limit_of_its_own(changing: Changing) -> None:
    changing.load(recaption={**ALL, "perspectives": {"scene_caption": {"pictures_per_day": 2}}})
    changing.caption_all()
    changing.change("scene_caption")
    (request,) = changing.tick().run_requests or []
    assert what(request)[:2] == ("street-000000", "street-000000")
    assert changing.run(request).success
    assert "limit of 2 pictures a day of scene_caption reached; 4 left" in why_not(changing.tick())


def test_what_waits_or_runs_is_neither_launched_again_nor_forgotten(changing: Changing) -> None:
    changing.load(recaption={**ALL, "pictures_per_day": 4, "shards_per_run": 1})
    changing.caption_all()
    changing.change()
    create_run_for_test(
        changing.instance,
        "caption_job",
        status=DagsterRunStatus.STARTED,
        tags={"dagster/partition": "street-000000", run_tags.CAUSE: "recaptioning", run_tags.PICTURES: "2"},
    )
    result = changing.tick()
    assert [what(request)[0] for request in result.run_requests or []] == ["street-000001"]
    (request,) = result.run_requests or []
    create_run_for_test(
        changing.instance,
        "caption_job",
        status=DagsterRunStatus.STARTED,
        tags={**request.tags, "dagster/partition": "street-000001"},
    )
    told = why_not(changing.tick())
    assert "limit of 4 pictures a day reached; 2 left" in told
    assert "2 open shards are in runs that wait or are under way" in told


def test_the_queue_stays_short(changing: Changing) -> None:
    changing.load(
        recaption={**ALL, "shards_per_run": 1},
    )
    changing.caption_all()
    changing.change()
    for number in range(4):
        create_run_for_test(
            changing.instance,
            "caption_job",
            status=DagsterRunStatus.NOT_STARTED,
            tags={"dagster/partition": f"other-{number:06d}", run_tags.CAUSE: Cause.RECAPTIONING.label},
        )
    assert len(changing.tick().run_requests or []) == 1


def test_a_form_that_fails_is_not_tried_over_and_over(
    changing: Changing, later: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing.engine.max_in_flight = 1  # which pictures fail before the breaker trips is no accident then,
    monkeypatch.setattr(LazyEngine, "max_in_flight", 1)  # however long the engine takes to load
    changing.load(recaption=ALL, captions={"breaker_after": 2, "max_failure_share": 0.1})
    changing.caption_all()
    changing.change("scene_caption")
    changing.fail["scene_caption"] = EngineFailure("prompt", "too odd", retryable=False)
    (request,) = changing.tick().run_requests or []
    assert not changing.run(request).success
    assert "left alone for a while" in why_not(changing.tick())
    changing.cursor = None
    assert "left alone for a while" in why_not(changing.tick()), "without the cursor, too"
    later(timedelta(minutes=16))
    again = [(what(request), request.tags[run_tags.PICTURES]) for request in changing.tick().run_requests or []]
    assert again == [
        (("street-000000", "street-000000", {"synthesized_caption"}), "1"),  # that its input failed is not told yet
        (("street-000001", "street-000002", TWO), "4"),
    ]


def test_failures_that_may_pass_are_repaired_after_growing_pauses(changing: Changing, later: Clock) -> None:
    changing.fail["scene_count"] = DOWN
    changing.load(captions={"max_failure_share": 1.0})
    changing.caption_all()
    assert changing.stale()["scene_count", "failed"] == 6
    assert why_not(changing.tick()) == "3 shards failed or were cancelled, and are left alone for a while"
    waited = timedelta()
    for pause in (16, 16, 31):
        waited += timedelta(minutes=pause)
        later(waited - timedelta(minutes=3))
        assert not changing.tick().run_requests
        later(waited)
        (request,) = changing.tick().run_requests or []
        assert request.tags[run_tags.CAUSE] == "repair"
        assert what(request)[2] == {"scene_count", "synthesized_caption"}
    changing.fail.clear()
    assert changing.run(request).success
    assert not changing.stale()


def test_a_settled_failure_is_never_repaired(changing: Changing, later: Clock) -> None:
    changing.fail["scene_count"] = EngineFailure("prompt", "never", retryable=False)
    changing.load(captions={"max_failure_share": 1.0})
    changing.caption_all()
    later(timedelta(days=3))
    assert why_not(changing.tick()) == "nothing to do", "nor what waits for it"


def test_a_repair_redoes_nothing_that_policy_forbids(changing: Changing, later: Clock) -> None:
    changing.fail["scene_count"] = DOWN
    changing.load(captions={"max_failure_share": 1.0})
    changing.caption_all()
    changing.change("synthesized_caption")
    later(timedelta(hours=1))
    (request,) = changing.tick().run_requests or []
    assert what(request)[2] == {"scene_count"}


def test_what_a_run_left_unfinished_is_repaired(changing: Changing, later: Clock) -> None:
    assert changing.pipeline.ingest("street").success
    assert changing.pipeline.run("", "street-000000", "street-000002", select=["media"]).success
    assert not changing.tick().run_requests, "somebody may be about to caption them"
    later(timedelta(minutes=16))
    (request,) = changing.tick().run_requests or []
    assert what(request) == ("street-000000", "street-000002", {"scene_caption", "scene_count", "synthesized_caption"})
    assert changing.run(request).success
    assert why_not(changing.tick()) == "nothing to do"


def test_a_planned_shard_that_nobody_took_is_repaired(changing: Changing, later: Clock) -> None:
    assert changing.pipeline.ingest("street").success
    assert not changing.tick().run_requests, "arrivals are about to hand it over"
    later(timedelta(minutes=16))
    (request,) = changing.tick().run_requests or []
    assert "media" in what(request)[2]
    assert changing.run(request).success
    assert changing.query("SELECT count(*) FROM captions_synthesized_caption") == [(6,)]


def test_what_a_person_cancelled_stays_cancelled(changing: Changing, later: Clock) -> None:
    changing.load(recaption=ALL)
    changing.caption_all()
    changing.change()
    create_run_for_test(
        changing.instance,
        "caption_job",
        status=DagsterRunStatus.CANCELED,
        tags={"dagster/partition": "street-000001"},
    )
    later(timedelta(hours=3))
    assert [what(request)[0] for request in changing.tick().run_requests or []] == ["street-000000", "street-000002"]


@pytest.mark.parametrize("cursor", [None, "", "7", "[]", '{"version": 0}', '{"version": 1, "forms": 3, "tried": 4}'])
@pytest.mark.slow
def test_a_lost_cursor_does_no_harm(changing: Changing, cursor: str | None) -> None:
    changing.load(recaption=ALL)
    changing.caption_all()
    changing.cursor = cursor
    assert why_not(changing.tick()) == "nothing to do"


def test_it_waits_for_changed_files_to_be_loaded(changing: Changing) -> None:
    changing.load(recaption=ALL)
    changing.caption_all()
    changing.save("scene_caption", prompt="Another.")
    assert why_not(changing.tick()) == "perspectives or pipeline file have changed: waits until they are loaded"


def test_a_cost_limit_counts_what_was_paid(changing: Changing) -> None:
    engine: dict[str, Any] = {"kind": "openai", "model": "m", "servers": ["http://127.0.0.1:9/v1"]}
    prices = {"prompt": 1_000_000.0, "completion": 0.0}  # each reply is for 80 tokens
    changing.load(engines={"default": {**engine, "prices": prices}}, recaption={**ALL, "cost_per_day": 500.0})
    changing.caption_all()
    changing.change()
    (request,) = changing.tick().run_requests or []
    assert what(request)[:2] == ("street-000000", "street-000000"), "a shard's two perspectives cost 320"
    assert float(request.tags[run_tags.COST]) == pytest.approx(320.0)
    assert changing.run(request).success
    assert why_not(changing.tick()) == "limit of 500.00 a day reached; 4 left"


def test_switched_off_altogether(changing: Changing) -> None:
    changing.load(recaption={"repairs": {"enabled": False}})
    assert why_not(changing.tick()) == "recaption.policy is off, and so are repairs"


def test_the_lake_is_read_again_when_something_has_happened(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing.caption_all()
    assert why_not(changing.tick()) == "nothing to do"

    def read(*_: object, **__: object) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr("caption_assets.sensors.recaptioning.open_counts", read)
    assert why_not(changing.tick()) == "nothing to do"
    create_run_for_test(changing.instance, "caption_job", status=DagsterRunStatus.STARTED)
    with pytest.raises(AssertionError, match="it is read"):
        changing.tick()
