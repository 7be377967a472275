"""The ladder of retries over several runs: what counts, what is settled, what is shown smaller, who is to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from caption_assets.captioning import asking, rows
from caption_assets.captioning.scheduler import BreakerTripped
from caption_assets.config import PipelineConfig
from caption_assets.engine.protocol import Engine, EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets_tests.captioning.test_failures import good, perspective_of
from caption_assets_tests.support import Script, ScriptedEngine, bound_of, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]
ONLY = ["scene_count"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PAUSE_SECONDS", 0.001)


def prepare(make_config: MakeConfig, **captions: Any) -> tuple[PipelineConfig, Lake, list[Shard]]:
    """A lake with the media of three shards of eight pictures."""
    config = make_config(captions=captions)
    lake = Lake(config.lake)
    return config, lake, ingest(config, lake)


def nonsense(request: EngineRequest) -> EngineReply:
    """An answer that is no caption."""
    del request
    return reply("Certainly!")


def failing(**traits: bool) -> Script:
    """The engine fails each time."""
    return lambda request: EngineFailure("engine", "HTTP 500", retryable=True, **traits)


def failures(lake: Lake, shard: Shard) -> set[tuple[str, int, bool]]:
    """Kind, attempts and whether it is tried again, of all failures."""
    return {(row["kind"], row["attempts"], row["retryable"]) for row in read_failures(lake, "scene_count", shard)}


@pytest.mark.parametrize(("script", "kind"), [(nonsense, "not_json"), (failing(own=True), "engine")])
def test_attempts_add_up_over_runs_until_a_picture_is_left_alone(
    make_config: MakeConfig, script: Script, kind: str
) -> None:
    config, lake, (shard, *_) = prepare(make_config, max_attempts=2)
    engine = ScriptedEngine(script)
    caption(config, lake, [shard], lent(engine), only=ONLY, run_id="first")
    assert (len(engine.requests), failures(lake, shard)) == (16, {(kind, 2, False)})
    (report,) = caption(config, lake, [shard], lent(engine), only=ONLY, run_id="second")
    assert len(engine.requests) == 16, "left alone"
    assert report.looks["scene_count"].failed == 8

    patient = make_config(captions={"max_attempts": 3})
    caption(patient, lake, [shard], lent(engine), only=ONLY, run_id="third")
    assert (len(engine.requests), failures(lake, shard)) == (24, {(kind, 3, False)})
    if kind == "not_json":
        asked = {}
        for request in engine.requests:
            asked.setdefault(request.request_id.split("#")[0], []).append((request.seed, request.temperature))
        assert all(len(set(each)) == 3 for each in asked.values()), "differently each time, over all runs"

    caption(patient, lake, [shard], lent(engine), only=ONLY, run_id="fourth", force=True)
    assert (len(engine.requests), failures(lake, shard)) == (48, {(kind, 3, False)}), "force starts over"


def test_what_is_the_engines_fault_costs_a_picture_nothing(make_config: MakeConfig) -> None:
    config, lake, (shard, *_) = prepare(make_config, max_attempts=2)
    for run in ("first", "second", "third"):
        caption(config, lake, [shard], lent(ScriptedEngine(failing())), only=ONLY, run_id=run)
        assert failures(lake, shard) == {("engine", 0, True)}
    (report,) = caption(config, lake, [shard], lent(ScriptedEngine(good)), only=ONLY, run_id="fourth")
    assert report.looks["scene_count"].done == 8
    assert {row["attempts"] for row in rows.read_rows(lake, bound_of(config)["scene_count"], shard).values()} == {1}
    assert failures(lake, shard) == set()


def test_a_run_that_stops_early_has_its_attempts_on_record(make_config: MakeConfig) -> None:
    config, lake, shards = prepare(make_config, max_attempts=2, breaker_after=4, max_failure_share=0.1)

    def failed() -> set[str]:
        return {row["media_id"] for shard in shards for row in read_failures(lake, "scene_count", shard)}

    with pytest.raises(BreakerTripped, match="not_json: "):
        caption(config, lake, shards, lent(ScriptedEngine(nonsense)), only=ONLY, run_id="first")
    known = failed()
    assert 4 <= len(known) < 24

    later = ScriptedEngine(good)
    looks = [
        report.looks["scene_count"] for report in caption(config, lake, shards, lent(later), only=ONLY, run_id="second")
    ]
    assert len(later.requests) == sum(look.done for look in looks) == 24 - len(known)
    assert sum(look.failed for look in looks) == len(known)
    assert failed() == known


def test_a_picture_too_large_for_the_context_is_shown_smaller(make_config: MakeConfig) -> None:
    config, lake, (shard, *_) = prepare(make_config)
    sizes: dict[str, list[tuple[int, str]]] = {}

    def script(request: EngineRequest) -> EngineReply | EngineFailure:
        assert request.image is not None
        pixels = request.image.width * request.image.height
        asked = sizes.setdefault(request.request_id.split("#")[0], [])
        asked.append((pixels, str(request.image_id)))
        if pixels > 0.3 * asked[0][0]:
            return EngineFailure("too_long", "prompt is longer than the context", retryable=False)
        return good(request)

    (report,) = caption(config, lake, [shard], lent(ScriptedEngine(script)), only=ONLY)
    look = report.looks["scene_count"]
    assert (look.done, look.smaller) == (8, 8)
    for asked in sizes.values():
        pixels, names = zip(*asked)
        assert [each / pixels[0] for each in pixels] == pytest.approx([1.0, 0.5, 0.25], abs=0.02)
        assert len(set(names)) == 3, "other pixels have another name"
        assert all(name.startswith(names[0]) for name in names)


def test_a_prompt_that_is_too_long_without_its_picture_is_given_up(make_config: MakeConfig) -> None:
    def script(request: EngineRequest) -> EngineFailure:
        del request
        return EngineFailure("too_long", "prompt is longer than the context", retryable=False)

    config, lake, (shard, *_) = prepare(make_config, max_attempts=20)
    engine = ScriptedEngine(script)
    caption(config, lake, [shard], lent(engine), only=ONLY)
    (settled,) = {(kind, again) for kind, _, again in failures(lake, shard)}
    assert settled == ("too_long", False)
    assert len(engine.requests) <= 8 * 8, "the picture has an end"
    before = len(engine.requests)
    caption(config, lake, [shard], lent(engine), only=ONLY, run_id="second")
    assert len(engine.requests) == before


def test_a_larger_budget_that_has_no_room_leaves_it_truncated(make_config: MakeConfig) -> None:
    def script(request: EngineRequest) -> EngineReply | EngineFailure:
        if request.max_tokens == budget:
            return reply('{"count": 1', finish_reason="length")
        return EngineFailure("too_long", "maximum context length", retryable=False)

    config, lake, (shard, *_) = prepare(make_config)
    budget = bound_of(config)["scene_count"].perspective.sampling.max_tokens
    caption(config, lake, [shard], lent(ScriptedEngine(script)), only=ONLY)
    assert failures(lake, shard) == {("truncated", 2, False)}
    assert all('the reply begins: \'{"count": 1' in row["message"] for row in read_failures(lake, *ONLY, shard))


@pytest.mark.parametrize("script", [good, nonsense])
def test_a_run_beside_another_leaves_one_row_each(make_config: MakeConfig, script: Script) -> None:
    config, lake, (shard, *_) = prepare(make_config)
    raced: list[str] = []

    def slower(request: EngineRequest) -> EngineReply | EngineFailure:
        if not raced:  # by now this run has looked at what is missing; the other one does it all
            raced.append(request.request_id)
            caption(config, lake, [shard], lent(ScriptedEngine(good)), only=ONLY, run_id="other")
        return script(request)

    caption(config, lake, [shard], lent(ScriptedEngine(slower)), only=ONLY, run_id="slower")
    bound = bound_of(config)["scene_count"]
    table = lake.read_table(next(iter(sealed(lake, bound, shard))))
    assert len(table) == len(set(table["media_id"].to_pylist())) == 8
    assert failures(lake, shard) == set()


def sealed(lake: Lake, bound: Any, shard: Shard) -> list[str]:
    """The files of a shard's captions."""
    folder = f"captions/perspective={bound.name}/fingerprint={bound.fingerprint[:16]}"
    folder += f"/dataset={shard.dataset}/shard={shard.key}"
    files = [f"{folder}/{name}" for name in lake.list(folder)]
    assert len(files) == 1
    return files


class Mortal:
    """Opens engines that die after so many answers each."""

    def __init__(self, *lives: int) -> None:
        self.lives = list(lives)
        self.opened = self.closed = self.answered = 0

    @contextmanager
    def open(self, config: PipelineConfig, name: str, waiting: Callable[[], None]) -> Iterator[Engine]:
        """The next engine."""
        del config, name, waiting
        left = self.lives[self.opened]
        self.opened += 1

        def script(request: EngineRequest) -> EngineReply | EngineFailure:
            nonlocal left
            left -= 1
            if left < 0:
                return EngineFailure("engine", "the engine died", retryable=True, fatal=True, died=True)
            self.answered += 1
            return good(request)

        try:
            yield ScriptedEngine(script)
        finally:
            self.closed += 1


def test_an_engine_that_dies_is_loaded_again_and_nothing_is_lost(make_config: MakeConfig) -> None:
    config, lake, (shard, *_) = prepare(make_config)
    mortal = Mortal(6, 1000)
    (report,) = caption(config, lake, [shard], mortal.open)
    assert (mortal.opened, mortal.closed, mortal.answered) == (2, 2, 32), "each is asked again, none twice"
    assert all(look.complete and not look.failed and look.restarts == 1 for look in report.looks.values())
    for bound in bound_of(config).values():
        assert {row["attempts"] for row in rows.read_rows(lake, bound, shard).values()} == {1}


def test_a_second_death_ends_the_run_and_keeps_what_was_answered(make_config: MakeConfig) -> None:
    config, lake, (shard, *_) = prepare(make_config)
    mortal = Mortal(6, 5)
    with pytest.raises(EngineFailure, match="the engine died"):
        caption(config, lake, [shard], mortal.open)
    assert (mortal.opened, mortal.closed) == (2, 2)
    kept = {name: rows.read_rows(lake, bound, shard) for name, bound in bound_of(config).items()}
    assert sum(len(each) for each in kept.values()) == 11
    assert all(read_failures(lake, name, shard) == [] for name in kept)


def test_pixels_have_no_part_in_a_text_only_question(make_config: MakeConfig) -> None:
    def script(request: EngineRequest) -> EngineReply | EngineFailure:
        if perspective_of(request) == "synthesized_caption":
            return EngineFailure("too_long", "prompt is longer than the context", retryable=False)
        return good(request)

    config, lake, (shard, *_) = prepare(make_config)
    assert not bound_of(config)["synthesized_caption"].perspective.image
    engine = ScriptedEngine(script)
    caption(config, lake, [shard], lent(engine))
    assert sum(perspective_of(each) == "synthesized_caption" for each in engine.requests) == 8
