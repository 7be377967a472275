"""Crops: whatever a model draws, what is cut out is within the picture, not empty, and holds the box."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_assets.captioning.crops import cut_regions
from caption_assets.perspectives import Regions

STORED, ORIGINAL = (100, 50), (400, 200)


def options(**changes: Any) -> Regions:
    """Options in percent, without a shortest side."""
    defaults = {"input": "animals", "field": "animals", "units": "percent", "min_pixels": 1}
    return Regions.model_validate(defaults | changes)


def media(stored: tuple[int, int] = STORED, original: tuple[int, int] = ORIGINAL) -> dict[str, int]:
    """A picture's row."""
    return {
        "width": stored[0],
        "height": stored[1],
        "original_width": original[0],
        "original_height": original[1],
    }


def cut_one(box: list[float], **changes: Any) -> tuple[tuple[int, ...], list[float], list[int]]:
    """Crop, box and box_pixels of one box."""
    (region,), _ = cut_regions(options(**changes), [{"box": box}], media())
    return region.crop, region.values["box"], region.values["box_pixels"]


@pytest.mark.parametrize(
    ("box", "changes", "expected"),
    [
        ([10, 20, 30, 60], {}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([30, 60, 10, 20], {}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([0.1, 0.2, 0.3, 0.6], {"units": "fraction"}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([100, 200, 300, 600], {"units": "thousandths"}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([10, 10, 30, 30], {"units": "pixels"}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([20, 10, 60, 30], {"order": "yxyx"}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([10, 20, 20, 40], {"order": "xywh"}, ((10, 10, 30, 30), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        # 29 percent of 100 pixels is 28.999999999999996 in floating point, and meant is pixel 29
        ([29, 0, 58, 100], {}, ((29, 0, 58, 50), [0.29, 0.0, 0.58, 1.0], [116, 0, 232, 200])),
        ([10, 20, 30, 60], {"padding": 0.5}, ((0, 0, 40, 40), [0.1, 0.2, 0.3, 0.6], [40, 40, 120, 120])),
        ([-20, 80, 50, 130], {}, ((0, 40, 50, 50), [0.0, 0.8, 0.5, 1.0], [0, 160, 200, 200])),
        ([50, 50, 50, 50], {}, ((50, 25, 51, 26), [0.5, 0.5, 0.5025, 0.505], [200, 100, 201, 101])),
        ([100, 100, 100, 100], {}, ((99, 49, 100, 50), [0.9975, 0.995, 1.0, 1.0], [399, 199, 400, 200])),
        ([50, 50, 50, 50], {"min_pixels": 11}, ((45, 20, 56, 31), [0.5, 0.5, 0.5025, 0.505], [200, 100, 201, 101])),
        ([0, 0, 2, 2], {"min_pixels": 60}, ((0, 0, 60, 50), [0.0, 0.0, 0.02, 0.02], [0, 0, 8, 4])),
    ],
)
def test_examples(box: list[float], changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert cut_one(box, **changes) == expected


def test_boxes_outside_and_beyond_the_limit_are_counted() -> None:
    inside, outside = {"box": [0, 0, 50, 50]}, {"box": [101, 0, 120, 50]}
    regions, left_out = cut_regions(options(max_regions=2), [inside, outside, *[inside] * 4], media())
    assert [region.index for region in regions] == [0, 2]
    assert left_out == {"outside": 1, "over_limit": 3}
    assert cut_regions(options(), [], media()) == ([], {"outside": 0, "over_limit": 0})


def test_what_the_input_says_comes_along_except_its_own_box() -> None:
    found = [{"bbox_2d": [0, 0, 50, 50], "label": "fox", "index": 7}]
    (region,), _ = cut_regions(options(box="bbox_2d"), found, media())
    assert region.values == {"index": 0, "box": [0.0, 0.0, 0.5, 0.5], "box_pixels": [0, 0, 200, 100], "label": "fox"}


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1) | st.integers(-50, 150)
sides = st.integers(1, 70_000)


@given(
    box=st.lists(numbers, min_size=4, max_size=4),
    units=st.sampled_from(["fraction", "percent", "thousandths", "pixels"]),
    order=st.sampled_from(["xyxy", "yxyx", "xywh"]),
    padding=st.floats(0, 10),
    least=st.integers(1, 100),
    stored=st.tuples(sides, sides),
    original=st.tuples(sides, sides),
)
def test_any_box_gives_a_crop_within_the_picture_or_is_counted(
    box: list[float],
    units: str,
    order: str,
    padding: float,
    least: int,
    stored: tuple[int, int],
    original: tuple[int, int],
) -> None:
    original = (stored[0] + original[0], stored[1] + original[1])  # nothing is stored bigger than it was
    asked = options(units=units, order=order, padding=padding, min_pixels=least)
    regions, left_out = cut_regions(asked, [{"box": box}], media(stored, original))
    assert len(regions) + left_out["outside"] == 1
    for region in regions:
        x0, y0, x1, y1 = region.values["box"]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        left, top, right, bottom = region.values["box_pixels"]
        assert 0 <= left < right <= original[0]
        assert 0 <= top < bottom <= original[1]
        left, top, right, bottom = region.crop
        assert 0 <= left < right <= stored[0]
        assert 0 <= top < bottom <= stored[1]
        assert right - left >= min(least, stored[0])
        assert bottom - top >= min(least, stored[1])
        # the box is in its crop, to a pixel: one without area stands for a pixel of the original
        assert left <= x0 * stored[0] + 1
        assert right >= min(x1 - 1 / original[0], 1) * stored[0] - 1
        assert top <= y0 * stored[1] + 1
        assert bottom >= min(y1 - 1 / original[1], 1) * stored[1] - 1
