"""Antialiased shapes, each drawn so that it fills its bounding box exactly."""

import math

from PIL import Image, ImageDraw

from caption_assets.demo.vocabulary import Rgb

Box = tuple[float, float, float, float]

_CROSS_ARM = 0.36
_RING_WIDTH = 0.21


def _star() -> list[tuple[float, float]]:
    points = [
        (radius * math.cos(angle), radius * math.sin(angle))
        for i in range(10)
        for angle, radius in [(-math.pi / 2 + i * math.pi / 5, 1.0 if i % 2 == 0 else 0.42)]
    ]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    return [((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in points]


def _cross() -> list[tuple[float, float]]:
    a, b = (1 - _CROSS_ARM) / 2, (1 + _CROSS_ARM) / 2
    return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]


POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "star": _star(),
    "cross": _cross(),
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
}
"""Corners in a unit box, y down."""


def draw_shape(image: Image.Image, shape: str, box: Box, color: Rgb) -> None:
    """Paint a shape into the picture; box is (x0, y0, x1, y1) in pixels and may lie between pixels."""
    left, top = math.floor(box[0]), math.floor(box[1])
    width, height = math.ceil(box[2]) - left, math.ceil(box[3]) - top
    scale = 4 if max(width, height) < 160 else 2
    mask = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(mask)
    x0, y0 = (box[0] - left) * scale, (box[1] - top) * scale
    x1, y1 = (box[2] - left) * scale, (box[3] - top) * scale
    if shape in POLYGONS:
        # Pillow fills the pixels whose centres lie inside or on the edge: half a pixel less keeps the far edges tight
        pen.polygon([(x0 + x * (x1 - x0 - 0.5), y0 + y * (y1 - y0 - 0.5)) for x, y in POLYGONS[shape]], fill=255)
    else:
        pen.ellipse((x0, y0, x1 - 1, y1 - 1), fill=255)
        if shape == "ring":
            inset = _RING_WIDTH * (x1 - x0)
            pen.ellipse((x0 + inset, y0 + inset, x1 - 1 - inset, y1 - 1 - inset), fill=0)
    image.paste(color, (left, top), mask.reduce(scale))
