"""The prompts the model is trained on: the perspective files' own, and small edits of them."""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, Answer
from caption_assets.perspectives import Perspective, load_library, render_prompt

PERSPECTIVE_FOLDER: Final = Path(__file__).parent / "perspectives"
EDIT_SHARE: Final = 0.25
"""Share of training prompts that are edited, so that a small edit of a demo prompt still works."""

_PARAPHRASES: Final[dict[str, tuple[str, ...]]] = {
    "scene_caption": (
        "Describe the image in one sentence and tag it.",
        "Describe this picture in one sentence and give tags.",
        "Describe what the picture shows, and tag it.",
        "Caption the picture and tag it.",
        "Write a caption and tags for the picture.",
        "What does the picture show? Describe it in one sentence and tag it.",
    ),
    "scene_objects": (
        "List the objects with their boxes.",
        "List all objects with bounding boxes in percent.",
        "List every object and its box in percent of the picture.",
        "Find the objects and give their boxes in percent.",
        "Detect all objects in the image, with boxes in percent.",
    ),
    "scene_count": (
        "Count the objects and name the background color.",
        "Count all objects and name the background.",
        "Count the objects in the picture and say what the background is.",
        "How many objects are there, and what is the background?",
        "Say how many objects there are and name the background.",
    ),
    SYNTHESIS: (
        "Combine the notes on the picture into one caption.",
        "Combine these notes into one caption.",
        "Merge these notes on an image into one caption.",
        "Write one caption from these notes on a picture.",
        "Use these notes to write one caption for the picture.",
    ),
}
_POLITE: Final = ("Please ", "Now ", "Kindly ", "Look closely. ", "You are an expert. ", "Task: ")
_CLOSING: Final = (
    " Be brief.",
    " Be precise.",
    " Be accurate and complete.",
    " Answer in JSON.",
    " Reply as JSON only.",
    " Thank you.",
    " Please.",
    " Use simple words.",
    " Do not guess.",
    " Go from left to right.",
    " Include every detail.",
)


@cache
def perspectives() -> Mapping[str, Perspective]:
    """The demo's perspectives by name, as the pipeline loads them."""
    return load_library([PERSPECTIVE_FOLDER], PERSPECTIVE_FOLDER).perspectives


def synthesis_prompt(inputs: Mapping[str, Answer]) -> str:
    """The text-only prompt of the synthesis for the outputs of the other three perspectives."""
    read = {name: inputs[name] for name in IMAGE_PERSPECTIVES}
    return render_prompt(perspectives()[SYNTHESIS], read, {}, perspectives())


@cache
def image_prompt(name: str) -> str:
    """The prompt of a perspective that looks at the picture."""
    return render_prompt(perspectives()[name], {}, {}, perspectives())


def _edit(instruction: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.3:
        return instruction
    if draw < 0.45:
        return instruction[:-1] + rng.choice(("", "!", "?", " .", "...", ":"))
    if draw < 0.6:
        opening = rng.choice(_POLITE)
        return opening + (instruction if opening.endswith(". ") else instruction[0].lower() + instruction[1:])
    if draw < 0.85:
        return instruction + rng.choice(_CLOSING)
    if draw < 0.93:
        return instruction[0].lower() + instruction[1:]
    words = instruction.split(" ")
    words.pop(rng.randrange(1, len(words)))
    return " ".join(words)


def vary(name: str, prompt: str, rng: random.Random) -> str:
    """Usually the prompt itself; sometimes one with its first line paraphrased, edited, or both."""
    if rng.random() >= EDIT_SHARE:
        return prompt
    instruction, newline, rest = prompt.partition("\n")
    if rng.random() < 0.4:
        instruction = rng.choice(_PARAPHRASES[name])
    return _edit(instruction, rng) + newline + rest
