"""Scores answers against what was drawn; independent of how the answers were produced."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, Answer, image_answers, synthesize
from caption_assets.demo.prompts import perspectives
from caption_assets.demo.scenes import Scene
from caption_assets.demo.vocabulary import COLUMNS, LIGHTS, MIXED, OBJECT_COLORS, ROWS, SHAPES, SIZES
from caption_assets.perspectives import InvalidOutput, validate_output

GATES: Final[dict[str, float]] = {
    "valid": 1.0,
    "caption_objects": 0.97,
    "count": 0.99,
    "box_recall": 0.97,
    "box_iou": 0.90,
    "synthesis_own": 0.97,
    "synthesis_mixed": 0.97,
    "photographs": 1.0,
}
"""Least value of each gated figure."""

BOX_MATCH_IOU: Final = 0.5

_OBJECT = re.compile(
    rf"\b({'|'.join(SIZES)}) ({'|'.join(OBJECT_COLORS)}) ({'|'.join(SHAPES)}) "
    rf"at the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b"
)
_MIXED = re.compile(rf"^A {MIXED}, mostly ([a-z, ]+), ({'|'.join(LIGHTS)})\.$")

Box = Sequence[float]


@dataclass
class Tally:
    """Sums of figures: each value is a mean over what was added under its name."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add one observation."""
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """All means by name."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


def failed_gates(figures: Mapping[str, float]) -> dict[str, float]:
    """The gated figures that lie below their gate."""
    return {name: figures[name] for name, least in GATES.items() if name in figures and figures[name] < least}


def parse_answer(name: str, text: str) -> Answer | None:
    """A perspective's answer, or None where it is not valid."""
    try:
        return validate_output(perspectives()[name], text)
    except InvalidOutput:
        return None


def described_objects(caption: str) -> list[tuple[str, str, str, str]]:
    """(size, colour, shape, position) of each object a caption names, in its order."""
    return [(size, color, shape, f"{row} {column}") for size, color, shape, row, column in _OBJECT.findall(caption)]


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return both / (areas - both)


def match_boxes(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[float]:
    """Best IoU for each expected object among the found ones of its label, each used once; 0.0 where there is none."""
    free = list(found)
    values: list[float] = []
    for truth in expected:
        same = [one for one in free if one["label"] == truth["label"]]
        best = max(same, key=lambda one: iou(truth["box"], one["box"]), default=None)
        if best is None:
            values.append(0.0)
            continue
        free.remove(best)
        values.append(iou(truth["box"], best["box"]))
    return values


def _score_caption(scene: Scene, truth: Answer, answer: Answer | None, tally: Tally) -> None:
    caption, tags = ("", []) if answer is None else (str(answer["caption"]), answer["tags"])
    if scene.texture is None:
        named, shown = described_objects(caption), described_objects(truth["caption"])
        right = Counter((color, shape) for _, color, shape, _ in named)
        tally.add("caption_objects", right == Counter((o.color, o.shape) for o in scene.objects))
        tally.add("caption_sizes_positions", Counter(named) == Counter(shown))
        tally.add("caption_background", f" {scene.background} background." in caption)
        tally.add("caption_exact", caption == truth["caption"])
        tally.add("tags_exact", tags == truth["tags"])
    elif scene.texture.kind != MIXED:
        tally.add("texture_exact", caption == truth["caption"])
    else:
        match = _MIXED.match(caption)
        words = re.split(", | and ", match[1]) if match else []
        tally.add("mixed_first_color", bool(words) and words[0] in scene.texture.colors)
        tally.add("mixed_light", match is not None and match[2] == scene.texture.light)


def evaluate_outputs(scenes: Sequence[Scene], outputs: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Figures of the three perspectives that look at the picture.

    Args:
        scenes: what was drawn.
        outputs: the raw answers by perspective, one per scene.

    Returns:
        Shares (0-1): `valid`; `caption_objects`, captions that name exactly the colours and shapes drawn; `count`;
        `box_recall`, objects found under their label at an IoU of at least 0.5; `box_iou`, mean IoU of those; and more.
    """
    tally = Tally()
    for index, scene in enumerate(scenes):
        truth = image_answers(scene)
        answers = {name: parse_answer(name, outputs[name][index]) for name in IMAGE_PERSPECTIVES}
        for answer in answers.values():
            tally.add("valid", answer is not None)
        _score_caption(scene, truth["scene_caption"], answers["scene_caption"], tally)
        counted = answers["scene_count"] or {}
        tally.add("count", counted.get("count") == len(scene.objects))
        tally.add("background", counted.get("background") == scene.background)
        found = (answers["scene_objects"] or {}).get("objects", [])
        tally.add("no_extra_objects", len(found) <= len(scene.objects))
        for value in match_boxes(truth["scene_objects"]["objects"], found):
            tally.add("box_recall", value >= BOX_MATCH_IOU)
            if value >= BOX_MATCH_IOU:
                tally.add("box_iou", value)
    return tally.means()


def evaluate_synthesis(name: str, inputs: Sequence[Mapping[str, Answer]], outputs: Sequence[str]) -> dict[str, float]:
    """Share of syntheses that are valid, and (under `name`) that say exactly what their inputs say."""
    tally = Tally()
    for read, output in zip(inputs, outputs, strict=True):
        answer = parse_answer(SYNTHESIS, output)
        tally.add("valid_synthesis", answer is not None)
        tally.add(name, answer == synthesize(read))
    return tally.means()


def true_words(caption: str, acceptable: Mapping[str, Sequence[str]]) -> bool:
    """Whether a photograph's caption has a mixed picture's form and only words that are true of it, each once."""
    match = _MIXED.match(caption)
    if match is None:
        return False
    words = re.split(", | and ", match[1])
    distinct = len(set(words)) == len(words)
    return distinct and set(words) <= set(acceptable["colors"]) and match[2] in acceptable["light"]
