"""Brightness and blur: the right order, the same at every size."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from caption_assets.media.quality import Quality, measure, small_luma
from caption_assets_tests.media.pictures import noise


def of(image: Image.Image) -> Quality:
    return measure(small_luma(np.asarray(image)))


@pytest.mark.parametrize(("color", "brightness"), [("black", 0), ("white", 1), ((0, 255, 0), 0.587), ((51,) * 3, 0.2)])
def test_brightness_is_the_mean_luma(color: str, brightness: float) -> None:
    for size in ((1, 1), (40, 30), (1000, 700)):
        quality = of(Image.new("RGB", size, color))
        assert quality.brightness == pytest.approx(brightness, abs=0.003)
        assert quality.blur == 0


def test_half_black_is_half_as_bright_whatever_its_size() -> None:
    image = Image.new("RGB", (1001, 500), "white")
    image.paste("black", (0, 0, 1001, 250))
    assert of(image).brightness == pytest.approx(0.5, abs=0.01)


def test_blur_is_the_variance_of_the_laplacian() -> None:
    """One white pixel on black, 9 x 9: -1020 in its place, 255 in four, 0 in 76."""
    image = Image.new("RGB", (9, 9))
    image.putpixel((4, 4), (255, 255, 255))
    assert of(image).blur == pytest.approx((1020**2 + 4 * 255**2) / 81, rel=1e-6)


def test_the_blurred_is_less_sharp_step_by_step() -> None:
    sharp = Image.effect_noise((800, 600), 60).convert("RGB")
    values = [of(sharp.filter(ImageFilter.GaussianBlur(radius))).blur for radius in (0, 4, 8, 16)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 3 * values[1] > 3 * values[3]


def test_a_picture_is_as_sharp_at_another_size() -> None:
    image = noise(256, 192)
    same = of(image.resize((1024, 768), Image.Resampling.NEAREST))
    assert same.blur == pytest.approx(of(image).blur, rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (257, 1), (2, 2)])
def test_extreme_shapes_have_finite_numbers(size: tuple[int, int]) -> None:
    quality = of(noise(*size))
    assert 0 <= quality.brightness <= 1
    assert 0 <= quality.blur < 1e6
