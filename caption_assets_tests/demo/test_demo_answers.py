"""The answers the model is trained to give, and the prompts it is asked."""

import random
from pathlib import Path

import pytest

from caption_assets.demo.answers import (
    IMAGE_PERSPECTIVES,
    SYNTHESIS,
    all_answers,
    image_answers,
    synthesize,
    to_json,
)
from caption_assets.demo.prompts import EDIT_SHARE, image_prompt, perspectives, synthesis_prompt, vary
from caption_assets.demo.scenes import Scene, SceneObject, Texture, make_picture
from caption_assets.perspectives import json_schema, load_library, validate_output
from caption_assets.perspectives.lint import lint

SCENE = Scene(
    "white",
    (
        SceneObject("orange", "ring", "large", (0.05, 0.1, 0.35, 0.4)),
        SceneObject("blue", "star", "small", (0.42, 0.4, 0.6, 0.58)),
        SceneObject("lime", "cross", "small", (0.7, 0.75, 0.88, 0.93)),
    ),
)


def test_answers_of_objects() -> None:
    answers = all_answers(SCENE)
    caption = (
        "large orange ring at the top left, a small blue star at the middle center "
        "and a small lime cross at the bottom right on a white background."
    )
    tags = ["orange ring", "blue star", "lime cross", "white background"]
    assert answers["scene_caption"] == {"caption": f"A {caption}", "tags": tags}
    assert answers["scene_objects"]["objects"][0] == {"label": "orange ring", "box": [5, 10, 35, 40]}
    assert to_json(answers["scene_count"]) == '{"count":3,"background":"white"}'
    assert answers[SYNTHESIS] == {"caption": f"Three objects: a {caption}", "tags": tags, "count": 3}


def test_one_object_takes_the_singular() -> None:
    answers = all_answers(Scene("gray", SCENE.objects[1:2]))
    assert answers["scene_caption"]["caption"] == "A small blue star at the middle center on a gray background."
    assert answers[SYNTHESIS]["caption"].startswith("One object: a small blue star")


@pytest.mark.parametrize(
    ("kind", "colors", "caption"),
    [
        ("horizontal gradient", ("red", "blue"), "A horizontal gradient from red to blue, dark."),
        ("checkerboard", ("red", "blue"), "A checkerboard of red and blue, dark."),
        ("mixed picture", ("gray", "brown", "blue"), "A mixed picture, mostly gray, brown and blue, dark."),
    ],
)
def test_answers_of_textures(kind: str, colors: tuple[str, ...], caption: str) -> None:
    answers = all_answers(Scene(kind, texture=Texture(kind, colors, "dark")))
    assert answers["scene_caption"] == {"caption": caption, "tags": [kind, *colors, "dark"]}
    assert answers["scene_objects"] == {"objects": []}
    assert answers["scene_count"] == {"count": 0, "background": kind}
    assert answers[SYNTHESIS]["caption"] == f"No objects: a{caption[1:]}"


def test_synthesis_follows_each_input_where_they_disagree() -> None:
    answers = image_answers(SCENE)
    other = image_answers(Scene("black", SCENE.objects[:1]))
    result = synthesize({**answers, "scene_count": other["scene_count"]})
    assert result["count"] == 1
    assert result["caption"].startswith("One object: a large orange ring at the top left, a small blue star")
    assert result["tags"] == answers["scene_caption"]["tags"]


def test_every_answer_is_valid_for_its_perspective() -> None:
    for index in range(200):
        for name, answer in all_answers(make_picture(f"valid/{index}", (96, 96)).scene).items():
            assert validate_output(perspectives()[name], to_json(answer)) == answer


def test_perspectives_are_bounded_and_free_of_findings() -> None:
    library = load_library(["demo"], base_dir=Path())
    assert library.findings == []
    assert lint(library) == []
    assert set(library.perspectives) == {*IMAGE_PERSPECTIVES, SYNTHESIS}
    assert json_schema(library.perspectives["scene_objects"])["properties"]["objects"]["maxItems"] == 8
    assert not library.perspectives[SYNTHESIS].image
    assert library.perspectives[SYNTHESIS].inputs == IMAGE_PERSPECTIVES


def test_prompts_are_the_text_of_the_files() -> None:
    assert image_prompt("scene_count") == "Count the objects and name the background."
    answers = image_answers(Scene("white", SCENE.objects[1:2]))
    assert synthesis_prompt(answers) == (
        "Combine these notes on a picture into one caption.\n"
        "Caption: A small blue star at the middle center on a white background.\n"
        "Tags: blue star, white background\n"
        'Objects: [{"label":"blue star","box":[42,40,60,58]}]\n'
        "Count: 1 on white"
    )


def test_training_prompts_are_mostly_the_prompt_itself() -> None:
    rng = random.Random(0)
    prompt = synthesis_prompt(image_answers(SCENE))
    varied = [vary(SYNTHESIS, prompt, rng) for _ in range(1000)]
    changed = [text for text in varied if text != prompt]
    assert 0.1 < len(changed) / 1000 <= EDIT_SHARE + 0.05
    # only the instruction changes, never the notes
    assert {text.partition("\n")[2] for text in varied} == {prompt.partition("\n")[2]}
    assert len(set(changed)) > 50
