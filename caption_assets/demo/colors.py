"""Names for colours and light: the one documented function that labels pictures without objects.

A pixel is named by its nearest prototype in OKLab (Ottosson, 2020), a space in which Euclidean distance follows
perceived difference. Every name has several prototypes (shaded, plain, pale), because a photograph shows a green
meadow, not a green swatch. Pixels with almost no chroma are black, gray or white by lightness alone.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caption_assets.demo.vocabulary import BACKGROUNDS, OBJECT_COLORS, Rgb

SAMPLE_SIDE: Final = 48
"""Pictures are averaged down to this square before pixels are counted, so that grain does not vote."""
MIN_SHARE: Final = 0.18
MAX_COLORS: Final = 3
DARK_BELOW: Final = 85.0
BRIGHT_ABOVE: Final = 150.0

_NEUTRAL_CHROMA: Final = 0.032
_BLACK_LIGHTNESS: Final = 0.30
_DEEP_LIGHTNESS: Final = 0.21
_WHITE_LIGHTNESS: Final = 0.87

_SHADES: Final[dict[str, tuple[Rgb, ...]]] = {
    "red": ((120, 15, 20), (170, 45, 45), (225, 70, 60)),
    "orange": ((200, 95, 25), (235, 150, 70), (225, 125, 80)),
    "yellow": ((200, 170, 40), (240, 225, 110), (180, 150, 35)),
    "lime": ((130, 180, 40), (190, 230, 110), (150, 190, 80)),
    "green": ((15, 60, 25), (60, 90, 40), (80, 140, 80), (95, 115, 55)),
    "teal": ((10, 75, 80), (60, 130, 130), (40, 160, 155)),
    "blue": ((15, 25, 90), (50, 80, 150), (90, 130, 210), (30, 50, 110), (120, 150, 200)),
    "purple": ((70, 25, 90), (110, 80, 150), (170, 120, 200)),
    "pink": ((245, 180, 205), (215, 110, 150), (235, 160, 160)),
    "brown": ((60, 35, 20), (90, 60, 40), (150, 100, 65), (130, 95, 70), (110, 85, 55)),
    "cyan": ((160, 225, 240), (110, 195, 220), (150, 205, 230)),
    "beige": ((205, 185, 155), (190, 165, 130), (240, 225, 200), (215, 180, 150)),
}


def to_oklab(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert sRGB values 0-255, shape (..., 3), to OKLab (lightness 0-1, two opponent axes)."""
    srgb = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lms = linear @ _RGB_TO_LMS.T
    return np.asarray(np.cbrt(lms) @ _LMS_TO_LAB.T, np.float64)


_RGB_TO_LMS: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

COLOR_NAMES: Final = (*OBJECT_COLORS, *BACKGROUNDS)
_CHROMATIC: Final = (*OBJECT_COLORS, "cyan", "beige")
_PROTOTYPES: Final[list[tuple[str, Rgb]]] = [
    (name, shade) for name in _CHROMATIC for shade in ((OBJECT_COLORS | BACKGROUNDS)[name], *_SHADES[name])
]
_PROTOTYPE_LAB: Final = to_oklab(np.array([shade for _, shade in _PROTOTYPES], np.float64))
_PROTOTYPE_NAME: Final = np.array([COLOR_NAMES.index(name) for name, _ in _PROTOTYPES])
_WHITE, _BLACK, _GRAY = (COLOR_NAMES.index(name) for name in ("white", "black", "gray"))


def name_pixels(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Index into COLOR_NAMES for each pixel of an array of shape (..., 3)."""
    lab = to_oklab(rgb)
    flat = lab.reshape(-1, 3)
    # |a - b|^2 without the |a|^2 term, which is the same for every prototype
    distance = (_PROTOTYPE_LAB**2).sum(1) - 2.0 * flat @ _PROTOTYPE_LAB.T
    names = _PROTOTYPE_NAME[distance.argmin(1)].reshape(lab.shape[:-1])
    lightness, chroma = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2])
    neutral = (chroma < _NEUTRAL_CHROMA) | (lightness < _DEEP_LIGHTNESS)
    by_lightness = np.where(lightness < _BLACK_LIGHTNESS, _BLACK, np.where(lightness > _WHITE_LIGHTNESS, _WHITE, _GRAY))
    return np.asarray(np.where(neutral, by_lightness, names), np.int64)


@dataclass(frozen=True)
class Look:
    """What a picture without objects looks like: its main colours, most frequent first, and its light."""

    colors: tuple[str, ...]
    light: str


def light_word(pixels: NDArray[np.uint8]) -> str:
    """dark, medium or bright by the mean Rec. 601 luma (0-255) of an RGB array."""
    luma = float((pixels.reshape(-1, 3).mean(0) * np.array([0.299, 0.587, 0.114])).sum())
    return "dark" if luma < DARK_BELOW else "bright" if luma > BRIGHT_ABOVE else "medium"


def color_shares(image: Image.Image) -> dict[str, float]:
    """Share of the picture (0-1) under each colour name, largest first."""
    small = np.asarray(image.convert("RGB").resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BOX))
    counts = np.bincount(name_pixels(small).ravel(), minlength=len(COLOR_NAMES)) / SAMPLE_SIDE**2
    return {COLOR_NAMES[i]: float(counts[i]) for i in np.argsort(-counts, kind="stable")}


def look(image: Image.Image) -> Look:
    """Label a picture: up to three colours that each cover at least 18 % of it (always the first), and the light."""
    shares = color_shares(image)
    names = [name for name, share in shares.items() if share >= MIN_SHARE][:MAX_COLORS]
    small = np.asarray(image.convert("RGB").resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BOX))
    return Look(tuple(names or [next(iter(shares))]), light_word(small))
