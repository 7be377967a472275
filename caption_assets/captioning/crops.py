"""From the boxes that a model drew to the crops that are looked at: within the picture, and never empty.

| a box that | becomes |
|---|---|
| has its corners the wrong way round | the same box with its corners sorted |
| reaches over the picture's edge | the part within |
| has a side of zero | one that is a pixel wide there |
| lies outside altogether | nothing: counted as `outside` |
| comes after the first `max_regions` within the picture | nothing: counted as `over_limit` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caption_assets.perspectives import Regions

_PER_SIDE = {"fraction": 1, "percent": 100, "thousandths": 1000}
_DIGITS = 6
"""Of a fraction: a picture of 65,500 pixels has them to a tenth of a pixel. Of a pixel: what arithmetic blurs."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the picture's sides."""


@dataclass(frozen=True)
class Region:
    """A box that is looked at."""

    index: int
    """Among the input's boxes."""
    values: dict[str, Any]
    """Its place, and what the input says of it: what a prompt reads as `region`, and a row begins with."""
    crop: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the stored picture, right and bottom exclusive."""


def cut_regions(
    options: Regions, found: Sequence[Mapping[str, Any]], media: Mapping[str, Any]
) -> tuple[list[Region], dict[str, int]]:
    """The regions to look at in the input's order, and how many boxes are left out, by reason.

    Args:
        found: the input's objects, each with its box.
        media: the picture's row: `width` and `height` as it is stored, `original_width` and `original_height`.
    """
    stored = (int(media["width"]), int(media["height"]))
    original = (int(media["original_width"]), int(media["original_height"]))
    regions: list[Region] = []
    left_out = {"outside": 0, "over_limit": 0}
    for index, each in enumerate(found):
        box = _within(_fractions(options, each[options.box], stored))
        if box is None:
            left_out["outside"] += 1
        elif len(regions) == options.max_regions:
            left_out["over_limit"] += 1
        else:
            place = _place(index, box, original)
            said = {name: value for name, value in each.items() if name not in place and name != options.box}
            regions.append(Region(index, {**place, **said}, _crop(options, box, stored)))
    return regions, left_out


def _fractions(options: Regions, numbers: Sequence[float], stored: tuple[int, int]) -> Box:
    a, b, c, d = (float(number) for number in numbers)
    x0, y0, x1, y1 = {"xyxy": (a, b, c, d), "yxyx": (b, a, d, c), "xywh": (a, b, a + c, b + d)}[options.order]
    width, height = stored if options.units == "pixels" else (_PER_SIDE[options.units],) * 2
    return x0 / width, y0 / height, x1 / width, y1 / height


def _within(box: Box) -> Box | None:
    """The part of a box within the picture, corners sorted; None where there is none."""
    (x0, x1), (y0, y1) = sorted(box[::2]), sorted(box[1::2])
    if x1 < 0 or x0 > 1 or y1 < 0 or y0 > 1:
        return None
    return max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)


def _place(index: int, box: Box, original: tuple[int, int]) -> dict[str, Any]:
    """A region's index, box and box_pixels; the latter two are never empty."""
    spans = [_span(box[axis], box[axis + 2], original[axis], least=1) for axis in (0, 1)]
    exact = [round(number, _DIGITS) for number in box]
    for axis in (0, 1):
        if exact[axis] == exact[axis + 2]:
            exact[axis], exact[axis + 2] = (edge / original[axis] for edge in spans[axis])
    (left, right), (top, bottom) = spans
    return {"index": index, "box": exact, "box_pixels": [left, top, right, bottom]}


def _crop(options: Regions, box: Box, stored: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box with its padding, in whole pixels of the stored picture, no side shorter than asked for."""
    (left, right), (top, bottom) = (
        _span(
            max(box[axis] - options.padding * (box[axis + 2] - box[axis]), 0.0),
            min(box[axis + 2] + options.padding * (box[axis + 2] - box[axis]), 1.0),
            stored[axis],
            least=options.min_pixels,
        )
        for axis in (0, 1)
    )
    return left, top, right, bottom


def _span(low: float, high: float, size: int, *, least: int) -> tuple[int, int]:
    """From low to high (fractions of a side) in whole pixels: rounded outwards, widened where shorter than `least`."""
    start = min(math.floor(round(low * size, _DIGITS)), size)
    end = min(math.ceil(round(high * size, _DIGITS)), size)
    least = min(least, size)
    if end - start < least:
        start = min(max((start + end - least + 1) // 2, 0), size - least)
        end = start + least
    return start, end
