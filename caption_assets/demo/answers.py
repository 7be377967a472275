"""What each demo perspective should answer about a scene, as compact JSON in the schema's field order."""

import json
from collections.abc import Mapping
from typing import Any, Final

from caption_assets.demo.scenes import Scene, SceneObject
from caption_assets.demo.vocabulary import GRADIENTS, MIXED, NUMBER_WORDS, column_word, row_word

Answer = dict[str, Any]

IMAGE_PERSPECTIVES: Final = ("scene_caption", "scene_objects", "scene_count")
SYNTHESIS: Final = "synthesized_caption"


def article(words: str) -> str:
    """The words behind their indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def enumerate_words(words: list[str]) -> str:
    """Words as one phrase: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def label(shown: SceneObject) -> str:
    """What a box is labelled with: "red circle"."""
    return f"{shown.color} {shown.shape}"


def position(shown: SceneObject) -> str:
    """Where the centre of the object's box lies: "top left"."""
    x0, y0, x1, y1 = shown.box
    return f"{row_word((y0 + y1) / 2)} {column_word((x0 + x1) / 2)}"


def _sentence(scene: Scene) -> str:
    if scene.texture is None:
        parts = [f"{article(f'{o.size} {label(o)}')} at the {position(o)}" for o in scene.objects]
        text = f"{enumerate_words(parts)} on {article(scene.background)} background."
    else:
        kind, colors, light = scene.texture.kind, list(scene.texture.colors), scene.texture.light
        if kind in GRADIENTS:
            text = f"{article(kind)} from {colors[0]} to {colors[1]}, {light}."
        elif kind == MIXED:
            text = f"{article(kind)}, mostly {enumerate_words(colors)}, {light}."
        else:
            text = f"{article(kind)} of {enumerate_words(colors)}, {light}."
    return text[0].upper() + text[1:]


def scene_caption(scene: Scene) -> Answer:
    """One sentence from left to right, and its tags."""
    if scene.texture is None:
        tags = [*(label(o) for o in scene.objects), f"{scene.background} background"]
    else:
        tags = [scene.texture.kind, *scene.texture.colors, scene.texture.light]
    return {"caption": _sentence(scene), "tags": tags}


def percent(value: float) -> int:
    """A share of the picture as a whole percentage 0-100."""
    return max(0, min(100, round(100 * value)))


def scene_objects(scene: Scene) -> Answer:
    """Every object with its box in percent of the picture's width and height."""
    return {"objects": [{"label": label(o), "box": [percent(v) for v in o.box]} for o in scene.objects]}


def scene_count(scene: Scene) -> Answer:
    """How many objects, and on what; a texture is its own background."""
    return {"count": len(scene.objects), "background": scene.background}


def synthesize(inputs: Mapping[str, Answer]) -> Answer:
    """The synthesis as a function of the three outputs it reads.

    The sentence and the tags follow scene_caption, the number follows scene_count, also where the two disagree.
    """
    sentence = str(inputs["scene_caption"]["caption"])
    count = int(inputs["scene_count"]["count"])
    word = NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else str(count)
    counted = f"{word.capitalize()} {'object' if count == 1 else 'objects'}"
    return {
        "caption": f"{counted}: {sentence[:1].lower()}{sentence[1:]}",
        "tags": list(inputs["scene_caption"]["tags"]),
        "count": count,
    }


def image_answers(scene: Scene) -> dict[str, Answer]:
    """The answers of the three perspectives that look at the picture."""
    return {
        "scene_caption": scene_caption(scene),
        "scene_objects": scene_objects(scene),
        "scene_count": scene_count(scene),
    }


def all_answers(scene: Scene) -> dict[str, Answer]:
    """The answers of all four perspectives."""
    answers = image_answers(scene)
    return {**answers, SYNTHESIS: synthesize(answers)}


def to_json(value: Any) -> str:
    """Compact JSON, the one form the model is trained to write."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
