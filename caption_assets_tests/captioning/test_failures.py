"""Failures are data: retried by kind, recorded with a kind, never a caption, never a lost row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.captioning.scheduler import BreakerTripped
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]

GOOD: dict[str, Any] = {
    "scene_caption": {"caption": "A large red circle.", "tags": ["red circle"]},
    "scene_objects": {"objects": [{"label": "red circle", "box": [1, 2, 30, 40]}]},
    "scene_count": {"count": 1, "background": "white"},
    "synthesized_caption": {"caption": "One object.", "tags": ["red circle"], "count": 1},
}


def perspective_of(request: EngineRequest) -> str:
    """Which perspective asks."""
    return request.request_id.split("/")[-1].split("#")[0]


def good(request: EngineRequest) -> EngineReply:
    """A valid answer to any demo perspective."""
    return reply(json.dumps(GOOD[perspective_of(request)]))


@pytest.fixture
def prepared(make_config: MakeConfig) -> tuple[PipelineConfig, Lake, list[Shard]]:
    """A lake with the media of one shard of eight pictures."""
    config = make_config()
    lake = Lake(config.lake)
    return config, lake, ingest(config, lake)[:1]


def test_invalid_output_is_asked_again_at_another_seed_and_temperature(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    def script(request: EngineRequest) -> EngineReply:
        if perspective_of(request) == "scene_count" and request.temperature == 0.0:
            return reply('{"count": "many"}')
        return good(request)

    config, lake, shards = prepared
    engine = ScriptedEngine(script)
    (report,) = caption(config, lake, shards, lent(engine))
    assert report.looks["scene_count"].done == 8
    stored = rows.read_rows(lake, bound_of(config)["scene_count"], shards[0])
    assert {row["attempts"] for row in stored.values()} == {2}
    asked = [request for request in engine.requests if perspective_of(request) == "scene_count"]
    assert Counter(request.temperature for request in asked) == {0.0: 8, 0.7: 8}
    assert len({request.request_id for request in asked}) == 16


def test_what_stays_invalid_is_a_failure_row_and_its_readers_wait(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    def script(request: EngineRequest) -> EngineReply:
        if perspective_of(request) == "scene_objects":
            return reply('{"objects": [{"label": "red circle", "box": [1, 2, 30]}]}')
        return good(request)

    config, lake, shards = prepared
    (report,) = caption(config, lake, shards, lent(ScriptedEngine(script)))
    assert report.looks["scene_objects"].failure_kinds == {"schema": 8}
    assert report.looks["synthesized_caption"].failure_kinds == {"input_missing": 8}
    assert all(look.complete for look in report.looks.values())
    assert rows.read_rows(lake, bound_of(config)["scene_objects"], shards[0]) == {}
    failures = read_failures(lake, "scene_objects", shards[0])
    assert {(row["kind"], row["attempts"], row["retryable"]) for row in failures} == {("schema", 3, False)}
    assert all("the reply begins" in row["message"] for row in failures)
    with open_views(config) as views:
        found = views.execute("SELECT stage, kind, count(*) FROM failures GROUP BY ALL ORDER BY 1").fetchall()
    assert found == [("scene_objects", "schema", 8), ("synthesized_caption", "input_missing", 8)]

    # The next run leaves alone what failed for good, and what waits for it goes on waiting; force starts over.
    engine = ScriptedEngine(good)
    (second,) = caption(config, lake, shards, lent(engine), run_id="second")
    assert engine.requests == []
    assert second.looks["scene_objects"].failed == 8
    (third,) = caption(config, lake, shards, lent(engine), run_id="third", force=True)
    assert third.looks["scene_objects"].done == third.looks["synthesized_caption"].done == 8
    assert read_failures(lake, "scene_objects", shards[0]) == []


@pytest.mark.parametrize("begun", ['{"caption": "A large red', ""], ids=["JSON", "nothing to be seen"])
def test_truncated_output_gets_a_larger_budget_once(
    prepared: tuple[PipelineConfig, Lake, list[Shard]], begun: str
) -> None:
    config, lake, shards = prepared
    budget = bound_of(config)["scene_caption"].perspective.sampling.max_tokens

    def script(request: EngineRequest) -> EngineReply:
        if perspective_of(request) == "scene_caption" and request.max_tokens == budget:
            return reply(begun, finish_reason="length")
        return good(request)

    engine = ScriptedEngine(script)
    (report,) = caption(config, lake, shards, lent(engine))
    assert report.looks["scene_caption"].done == 8
    asked = [request.max_tokens for request in engine.requests if perspective_of(request) == "scene_caption"]
    assert Counter(asked) == {budget: 8, 2 * budget: 8}


def test_a_transient_failure_is_tried_again_and_a_refused_prompt_is_not(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    seen: Counter[str] = Counter()

    def script(request: EngineRequest) -> EngineReply | EngineFailure:
        name = perspective_of(request)
        key = request.request_id.split("#")[0]
        seen[key] += 1
        if name == "scene_count" and seen[key] == 1:
            return EngineFailure("engine", "connection reset", retryable=True)
        if name == "scene_objects":
            return EngineFailure("prompt", "the grammar cannot be built", retryable=False)
        return good(request)

    config, lake, shards = prepared
    engine = ScriptedEngine(script)
    (report,) = caption(config, lake, shards, lent(engine))
    assert report.looks["scene_count"].done == 8
    assert report.looks["scene_objects"].failure_kinds == {"prompt": 8}
    assert all(count == 1 for key, count in seen.items() if key.endswith("scene_objects"))


def test_the_breaker_stops_early_and_keeps_what_succeeded(make_config: MakeConfig) -> None:
    def script(request: EngineRequest) -> EngineReply:
        return good(request) if perspective_of(request) == "scene_caption" else reply("I cannot help with that.")

    config = make_config(captions={"max_attempts": 1, "breaker_after": 10, "max_failure_share": 0.3})
    lake = Lake(config.lake)
    shards = ingest(config, lake)
    engine = ScriptedEngine(script)
    with pytest.raises(BreakerTripped, match=r"not_json: \d+"):
        caption(config, lake, shards, lent(engine))
    assert len(engine.requests) < 24 * 3, "it stopped before the end"
    kept = [rows.read_rows(lake, bound_of(config)["scene_caption"], shard) for shard in shards]
    assert sum(len(each) for each in kept) >= 1


def test_a_dead_engine_ends_the_run_and_keeps_what_was_answered(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    answered: list[str] = []

    def script(request: EngineRequest) -> EngineReply | EngineFailure:
        if len(answered) >= 6:
            return EngineFailure("engine", "the engine died", retryable=True, fatal=True)
        answered.append(request.request_id)
        return good(request)

    config, lake, shards = prepared
    with pytest.raises(EngineFailure, match="the engine died"):
        caption(config, lake, shards, lent(ScriptedEngine(script)))
    kept = {name: rows.read_rows(lake, each, shards[0]) for name, each in bound_of(config).items()}
    assert sum(len(each) for each in kept.values()) == 6
    assert all(read_failures(lake, name, shards[0]) == [] for name in kept), (
        "nobody's fault is recorded as the pictures'"
    )

    engine = ScriptedEngine(good)
    (report,) = caption(config, lake, shards, lent(engine), run_id="second")
    assert len(engine.requests) == 8 * 4 - 6
    assert all(look.complete and not look.failed for look in report.looks.values())


def test_a_lost_segment_is_a_failure_of_its_pictures_until_media_is_repaired(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    config, lake, shards = prepared
    lake.remove("media/dataset=demo/demo-000000.tar")
    (report,) = caption(config, lake, shards, lent(ScriptedEngine(good)))
    assert report.looks["scene_caption"].failure_kinds == {"media_missing": 8}
    ingest(config, lake)
    (repaired,) = caption(config, lake, shards, lent(ScriptedEngine(good)), run_id="second")
    assert repaired.looks["synthesized_caption"].done == 8


def refusing_to_synthesize(request: EngineRequest) -> EngineReply:
    """Invalid answers to the synthesis, whatever it reads."""
    if perspective_of(request) == "synthesized_caption":
        return reply('{"caption": 3}')
    return good(request)


def counting_two(request: EngineRequest) -> EngineReply:
    """As good as any, with another count."""
    if perspective_of(request) == "scene_count":
        return reply('{"count": 2, "background": "white"}')
    return good(request)


@pytest.mark.parametrize("together", [True, False], ids=["with its input", "afterwards"])
def test_a_settled_reader_starts_over_when_its_input_says_something_else(
    prepared: tuple[PipelineConfig, Lake, list[Shard]], together: bool
) -> None:
    config, lake, shards = prepared
    caption(config, lake, shards, lent(ScriptedEngine(refusing_to_synthesize)))
    settled = read_failures(lake, "synthesized_caption", shards[0])
    assert {(row["kind"], row["attempts"], row["retryable"]) for row in settled} == {("schema", 3, False)}

    remove_rows(lake, config, "scene_count", shards[0])  # so that it is asked again
    engine = ScriptedEngine(counting_two)
    if not together:
        caption(config, lake, shards, lent(engine), run_id="other counts first", only=["scene_count"])
        with open_views(config) as views:
            open_ = views.execute(
                "SELECT perspective, reason, count(*) FROM stale WHERE reason <> 'missing' GROUP BY ALL"
            ).fetchall()
        assert open_ == [("synthesized_caption", "inputs_changed", 8)]
    reports = caption(config, lake, shards, lent(engine), run_id="other counts")
    assert Counter(map(perspective_of, engine.requests)) == {"scene_count": 8, "synthesized_caption": 8}
    assert reports[0].looks["synthesized_caption"].done == 8
    assert all(look.complete for look in reports[0].looks.values())
    stored = rows.read_rows(lake, bound_of(config)["synthesized_caption"], shards[0])
    assert {row["attempts"] for row in stored.values()} == {1}, "those for another prompt do not count"
    assert read_failures(lake, "synthesized_caption", shards[0]) == []


def test_a_settled_reader_stays_settled_when_its_input_says_the_same_again(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    config, lake, shards = prepared
    caption(config, lake, shards, lent(ScriptedEngine(refusing_to_synthesize)))
    settled = read_failures(lake, "synthesized_caption", shards[0])
    remove_rows(lake, config, "scene_count", shards[0])
    engine = ScriptedEngine(good)
    (report,) = caption(config, lake, shards, lent(engine), run_id="same counts")
    assert Counter(map(perspective_of, engine.requests)) == {"scene_count": 8}
    assert report.looks["synthesized_caption"].failure_kinds == {"schema": 8}
    assert all(look.complete for look in report.looks.values())
    again = read_failures(lake, "synthesized_caption", shards[0])
    assert sorted(again, key=media_id_of) == sorted(settled, key=media_id_of)


def test_attempts_at_another_prompt_do_not_count(prepared: tuple[PipelineConfig, Lake, list[Shard]]) -> None:
    config, lake, shards = prepared
    caption(config, lake, shards, lent(ScriptedEngine(refusing_to_synthesize)))
    for count in (2, 3):  # always another input, always in vain
        remove_rows(lake, config, "scene_count", shards[0])

        def script(request: EngineRequest, count: int = count) -> EngineReply:
            if perspective_of(request) == "scene_count":
                return reply(json.dumps({"count": count, "background": "white"}))
            return refusing_to_synthesize(request)

        engine = ScriptedEngine(script)
        caption(config, lake, shards, lent(engine), run_id=f"count {count}")
        assert Counter(map(perspective_of, engine.requests)) == {"scene_count": 8, "synthesized_caption": 24}
        failures = read_failures(lake, "synthesized_caption", shards[0])
        assert {(row["kind"], row["attempts"], row["retryable"]) for row in failures} == {("schema", 3, False)}
        assert len(failures) == 8


def test_a_settled_reader_whose_input_fails_stays_as_it_is(
    prepared: tuple[PipelineConfig, Lake, list[Shard]],
) -> None:
    config, lake, shards = prepared
    caption(config, lake, shards, lent(ScriptedEngine(refusing_to_synthesize)))
    settled = read_failures(lake, "synthesized_caption", shards[0])
    remove_rows(lake, config, "scene_count", shards[0])

    def script(request: EngineRequest) -> EngineReply:
        return reply("no JSON") if perspective_of(request) == "scene_count" else good(request)

    (report,) = caption(config, lake, shards, lent(ScriptedEngine(script)), run_id="no counts")
    assert report.looks["scene_count"].failure_kinds == {"not_json": 8}
    assert report.looks["synthesized_caption"].failure_kinds == {"schema": 8}
    again = read_failures(lake, "synthesized_caption", shards[0])
    assert sorted(again, key=media_id_of) == sorted(settled, key=media_id_of)


def media_id_of(row: dict[str, Any]) -> str:
    """To sort by."""
    return str(row["media_id"])


def remove_rows(lake: Lake, config: PipelineConfig, name: str, shard: Shard) -> None:
    """Make a perspective's captions of a shard disappear."""
    lake.remove_folder(layout.captions_folder(name, bound_of(config)[name].fingerprint, shard))
