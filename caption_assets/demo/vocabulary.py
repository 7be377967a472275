"""The closed world of the demo: the words of the captions and what they look like."""

from typing import Final

Rgb = tuple[int, int, int]

OBJECT_COLORS: Final[dict[str, Rgb]] = {
    "red": (215, 25, 30),
    "orange": (250, 125, 15),
    "yellow": (250, 220, 40),
    "lime": (165, 230, 40),
    "green": (20, 125, 45),
    "teal": (0, 130, 135),
    "blue": (35, 65, 215),
    "purple": (130, 40, 175),
    "pink": (250, 135, 190),
    "brown": (120, 70, 35),
}
BACKGROUNDS: Final[dict[str, Rgb]] = {
    "white": (246, 246, 246),
    "black": (14, 14, 16),
    "gray": (130, 130, 132),
    "cyan": (125, 225, 235),
    "beige": (232, 214, 180),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "ring", "cross", "diamond")
SIZES: Final[dict[str, tuple[float, float]]] = {"small": (0.15, 0.20), "large": (0.27, 0.34)}
"""Extent of a shape as a share of the picture's shorter side."""

ROWS: Final = ("top", "middle", "bottom")
COLUMNS: Final = ("left", "center", "right")
NUMBER_WORDS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
MAX_OBJECTS: Final = 4

GRADIENTS: Final = ("horizontal gradient", "vertical gradient")
PATTERNS: Final = ("striped pattern", "checkerboard")
MIXED: Final = "mixed picture"
TEXTURES: Final = (*GRADIENTS, *PATTERNS, MIXED)
LIGHTS: Final = ("dark", "medium", "bright")


def row_word(y: float) -> str:
    """The row, "top" to "bottom", of a vertical position in 0-1."""
    return ROWS[min(2, int(y * 3))]


def column_word(x: float) -> str:
    """The column, "left" to "right", of a horizontal position in 0-1."""
    return COLUMNS[min(2, int(x * 3))]
