"""The evaluation: figures computed from outputs, whoever made them."""

import json
from collections.abc import Sequence

import pytest
from PIL import Image

from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, image_answers, synthesize, to_json
from caption_assets.demo.evaluate import PHOTOGRAPH_FOLDER, Request, evaluate, photographs
from caption_assets.demo.prompts import synthesis_prompt
from caption_assets.demo.scenes import Scene, SceneObject, pictures
from caption_assets.demo.scoring import (
    GATES,
    described_objects,
    evaluate_outputs,
    evaluate_synthesis,
    failed_gates,
    iou,
    match_boxes,
    true_words,
)

SCENES = [one.scene for one in pictures(40, seed=99, size=(96, 96))]


def right_outputs() -> dict[str, list[str]]:
    """What a perfect model says about SCENES."""
    return {name: [to_json(image_answers(scene)[name]) for scene in SCENES] for name in IMAGE_PERSPECTIVES}


def test_right_answers_score_one() -> None:
    figures = evaluate_outputs(SCENES, right_outputs())
    assert set(figures.values()) == {1.0}
    assert failed_gates(figures) == {}
    assert {"valid", "caption_objects", "count", "box_recall", "box_iou"} <= set(figures) & set(GATES)


@pytest.mark.parametrize(
    ("perspective", "old", "new", "figure"),
    [
        ("scene_caption", "red", "blue", "caption_objects"),
        ("scene_caption", "at the top", "at the bottom", "caption_sizes_positions"),
        ("scene_caption", "dark", "bright", "mixed_light"),
        ("scene_count", '"count":2', '"count":3', "count"),
        ("scene_objects", "circle", "ring", "box_recall"),
        ("scene_objects", "[", "", "valid"),
    ],
)
def test_wrong_answers_lower_their_figure(perspective: str, old: str, new: str, figure: str) -> None:
    outputs = right_outputs()
    outputs[perspective] = [text.replace(old, new) for text in outputs[perspective]]
    assert evaluate_outputs(SCENES, outputs)[figure] < 1


def test_invalid_and_empty_answers_are_counted_not_raised() -> None:
    figures = evaluate_outputs(SCENES, {name: ["", "{}", "[1]", "null"] * 10 for name in IMAGE_PERSPECTIVES})
    assert figures["valid"] == 0
    assert figures["caption_objects"] == 0
    assert set(failed_gates(figures)) == {"valid", "caption_objects", "count", "box_recall"}


def test_iou_of_known_boxes() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_each_box_is_matched_once() -> None:
    truth = [{"label": "red ring", "box": [0, 0, 10, 10]}, {"label": "red ring", "box": [50, 50, 60, 60]}]
    assert match_boxes(truth, truth[:1]) == [1, 0]
    assert match_boxes(truth, truth[::-1]) == [1, 1]
    assert match_boxes(truth, [{"label": "red star", "box": [0, 0, 10, 10]}]) == [0, 0]


def test_described_objects_of_a_synthesis() -> None:
    scene = Scene("white", (SceneObject("red", "ring", "large", (0.1, 0.1, 0.3, 0.3)),))
    caption = synthesize(image_answers(scene))["caption"]
    assert described_objects(caption) == [("large", "red", "ring", "top left")]


def test_synthesis_is_compared_with_its_inputs() -> None:
    inputs = [image_answers(scene) for scene in SCENES]
    outputs = [to_json(synthesize(one)) for one in inputs]
    assert evaluate_synthesis("own", inputs, outputs) == {"own": 1, "valid_synthesis": 1}
    assert evaluate_synthesis("own", inputs, outputs[1:] + outputs[:1])["own"] < 0.2


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A mixed picture, mostly blue and gray, dark.", True),
        ("A mixed picture, mostly blue, dark.", True),
        ("A mixed picture, mostly blue, gray and red, dark.", False),
        ("A mixed picture, mostly blue and blue, dark.", False),
        ("A mixed picture, mostly blue, bright.", False),
        ("A large red ring at the top left on a white background.", False),
        ("", False),
    ],
)
def test_true_words(caption: str, expected: bool) -> None:
    assert true_words(caption, {"colors": ["blue", "gray"], "light": ["dark"]}) is expected


def test_evaluate_asks_any_engine() -> None:
    """A perfect engine, which recognises pictures by their bytes and syntheses by their prompts, passes every gate."""
    drawn = {one.image.tobytes(): one.scene for one in pictures(12, seed=5)}
    notes = {}
    for first in drawn.values():
        for second in drawn.values():
            for third in drawn.values():
                read = {
                    "scene_caption": image_answers(first)["scene_caption"],
                    "scene_objects": image_answers(second)["scene_objects"],
                    "scene_count": image_answers(third)["scene_count"],
                }
                notes[synthesis_prompt(read)] = to_json(synthesize(read))
    shown = {Image.open(one.file).convert("RGB").tobytes(): one for one in photographs()}

    def answer(request: Request) -> str:
        if request.perspective == SYNTHESIS:
            return notes[request.prompt]
        assert request.image is not None
        scene = drawn.get(request.image.tobytes())
        if scene is not None:
            return to_json(image_answers(scene)[request.perspective])
        photograph = shown[request.image.tobytes()]
        caption = f"A mixed picture, mostly {photograph.colors[0]}, {photograph.light[0]}."
        return {
            "scene_caption": to_json({"caption": caption, "tags": ["mixed picture"]}),
            "scene_objects": '{"objects":[]}',
            "scene_count": '{"count":0,"background":"mixed picture"}',
        }[request.perspective]

    def ask(requests: Sequence[Request]) -> list[str]:
        return [answer(request) for request in requests]

    figures = evaluate(ask, 12, seed=5)
    assert set(GATES) <= set(figures)
    assert failed_gates(figures) == {}


def test_photographs_are_small_and_documented() -> None:
    licences = (PHOTOGRAPH_FOLDER / "LICENSES.md").read_text()
    entries = json.loads((PHOTOGRAPH_FOLDER / "photographs.json").read_text())
    assert len(entries) == 4
    for entry in entries:
        file = PHOTOGRAPH_FOLDER / entry["file"]
        assert file.stat().st_size <= 120_000
        assert f"`{file.name}`" in licences
        assert entry["author"] in licences
        with Image.open(file) as image:
            image.load()
