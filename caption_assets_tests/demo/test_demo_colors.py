"""Colour and light words computed from pixels."""

import numpy as np
import pytest
from PIL import Image

from caption_assets.demo.colors import COLOR_NAMES, color_shares, light_word, look, name_pixels, to_oklab
from caption_assets.demo.vocabulary import BACKGROUNDS, OBJECT_COLORS, Rgb


@pytest.mark.parametrize(("name", "color"), [*OBJECT_COLORS.items(), *BACKGROUNDS.items()])
def test_every_drawn_color_has_its_own_name(name: str, color: Rgb) -> None:
    steps = np.array(np.meshgrid(*[(-4, 0, 4)] * 3)).reshape(3, -1).T
    nearby = (np.array(color) + steps).clip(0, 255).astype(np.uint8)
    assert {COLOR_NAMES[index] for index in name_pixels(nearby)} == {name}


def test_oklab_of_known_colors() -> None:
    # reference values of Ottosson's article
    white, black, red = to_oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    assert white == pytest.approx([1, 0, 0], abs=1e-3)
    assert black == pytest.approx([0, 0, 0], abs=1e-3)
    assert red == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((60, 90, 40), "green"),
        ((100, 70, 45), "brown"),
        ((20, 30, 80), "blue"),
        ((200, 180, 150), "beige"),
        ((40, 40, 42), "black"),
        ((90, 92, 90), "gray"),
        ((235, 235, 238), "white"),
        ((150, 210, 235), "cyan"),
        ((200, 60, 50), "red"),
    ],
)
def test_colors_of_photographs(color: Rgb, name: str) -> None:
    assert COLOR_NAMES[int(name_pixels(np.array([[color]], np.uint8))[0, 0])] == name


def test_look_names_what_covers_enough() -> None:
    image = Image.new("RGB", (96, 96), OBJECT_COLORS["blue"])
    image.paste(OBJECT_COLORS["red"], (0, 0, 30, 96))
    image.paste(OBJECT_COLORS["yellow"], (90, 0, 96, 96))
    assert look(image).colors == ("blue", "red")
    assert color_shares(image)["yellow"] == pytest.approx(6 / 96, abs=0.02)
    assert sum(color_shares(image).values()) == pytest.approx(1)


def test_light_follows_the_mean_luma() -> None:
    words = [light_word(np.full((4, 4, 3), value, np.uint8)) for value in (0, 84, 86, 149, 151, 255)]
    assert words == ["dark", "dark", "medium", "medium", "bright", "bright"]
