"""Draws pictures whose every detail is known: `python -m caption_assets.demo.scenes --count 40 --seed 1 OUT`.

Writes PNG and JPEG files and `truth.jsonl`, one line a picture:
`{file, background, objects: [{color, shape, size, box}], texture}`, boxes as shares (0-1) of width and height.
A scene depends on its seed alone.
"""

import argparse
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from caption_assets.demo.colors import light_word, look
from caption_assets.demo.shapes import Box, draw_shape
from caption_assets.demo.textures import gradient_or_pattern, jitter, mixed_picture
from caption_assets.demo.vocabulary import (
    BACKGROUNDS,
    GRADIENTS,
    MAX_OBJECTS,
    MIXED,
    OBJECT_COLORS,
    PATTERNS,
    SHAPES,
    SIZES,
)

MIN_SIDE, MAX_SIDE = 96, 1024
JPEG_QUALITY = 92

_BORDER = 0.015
"""Free share of the picture between an object and the edge."""
_GAP = 0.02
"""Free share of the picture between two objects' boxes."""
_ORDER_GAP = 0.055
"""Least distance of two objects' centres in x, so that "from left to right" is well-determined."""
_WORD_GAP = 0.03
"""Least distance of a centre from the lines at 1/3 and 2/3, so that the position word is well-determined."""


@dataclass(frozen=True)
class SceneObject:
    """One shape; box is (x0, y0, x1, y1) as shares of the picture's width and height."""

    color: str
    shape: str
    size: str
    box: Box


@dataclass(frozen=True)
class Texture:
    """A picture without objects: its kind, its colours (in order) and its light."""

    kind: str
    colors: tuple[str, ...]
    light: str


@dataclass(frozen=True)
class Scene:
    """All there is to know about a picture; objects stand from left to right."""

    background: str
    objects: tuple[SceneObject, ...] = ()
    texture: Texture | None = None

    def truth(self, file: str) -> dict[str, Any]:
        """This scene's line in truth.jsonl."""
        return {
            "file": file,
            "background": self.background,
            "objects": [
                {"color": o.color, "shape": o.shape, "size": o.size, "box": [round(v, 4) for v in o.box]}
                for o in self.objects
            ],
            "texture": None
            if self.texture is None
            else {"kind": self.texture.kind, "colors": list(self.texture.colors), "light": self.texture.light},
        }

    @classmethod
    def from_truth(cls, line: dict[str, Any]) -> "Scene":
        """Read a line of truth.jsonl."""
        texture = line["texture"]
        return cls(
            background=line["background"],
            objects=tuple(
                SceneObject(o["color"], o["shape"], o["size"], (o["box"][0], o["box"][1], o["box"][2], o["box"][3]))
                for o in line["objects"]
            ),
            texture=None if texture is None else Texture(texture["kind"], tuple(texture["colors"]), texture["light"]),
        )


@dataclass(frozen=True)
class Picture:
    """A drawn scene."""

    image: Image.Image
    scene: Scene


def _near_word_edge(value: float) -> bool:
    return min(abs(value - 1 / 3), abs(value - 2 / 3)) < _WORD_GAP


def _place(rng: random.Random, size: tuple[int, int], taken: list[Box], word: str) -> Box | None:
    """A free box for one more object, or None if this throw did not find one."""
    width, height = size
    extent = rng.uniform(*SIZES[word]) * min(width, height)
    half_x, half_y = extent / width / 2, extent / height / 2
    x = rng.uniform(half_x + _BORDER, 1 - half_x - _BORDER)
    y = rng.uniform(half_y + _BORDER, 1 - half_y - _BORDER)
    if _near_word_edge(x) or _near_word_edge(y):
        return None
    box = (x - half_x, y - half_y, x + half_x, y + half_y)
    for other in taken:
        apart_x = max(other[0] - box[2], box[0] - other[2])
        apart_y = max(other[1] - box[3], box[1] - other[3])
        if max(apart_x, apart_y) < _GAP or abs((other[0] + other[2]) / 2 - x) < _ORDER_GAP:
            return None
    return box


def _arrange(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[str, Box]]:
    """Size words and boxes of `count` objects, from left to right."""
    while True:
        placed: list[tuple[str, Box]] = []
        for _ in range(80):
            word = rng.choice(tuple(SIZES))
            box = _place(rng, size, [other for _, other in placed], word)
            if box is not None:
                placed.append((word, box))
                if len(placed) == count:
                    return sorted(placed, key=lambda one: one[1][0] + one[1][2])


def object_scene(rng: random.Random, size: tuple[int, int]) -> Scene:
    """One to four objects, no two of the same colour and shape, on a plain background."""
    count = rng.choices(range(1, MAX_OBJECTS + 1), (0.25, 0.3, 0.25, 0.2))[0]
    looks: set[tuple[str, str]] = set()
    while len(looks) < count:
        looks.add((rng.choice(tuple(OBJECT_COLORS)), rng.choice(SHAPES)))
    ordered = sorted(looks)
    rng.shuffle(ordered)
    objects = [
        SceneObject(color, shape, word, box)
        for (color, shape), (word, box) in zip(ordered, _arrange(rng, size, count), strict=True)
    ]
    return Scene(rng.choice(tuple(BACKGROUNDS)), tuple(objects))


def paint(scene: Scene, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a scene of objects at a size in pixels."""
    width, height = size
    image = Image.new("RGB", size, jitter(BACKGROUNDS[scene.background], rng, 8))
    for shown in scene.objects:
        x0, y0, x1, y1 = shown.box
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        draw_shape(image, shown.shape, box, jitter(OBJECT_COLORS[shown.color], rng, 10))
    return image


def _texture_picture(rng: random.Random, size: tuple[int, int]) -> Picture:
    kind = rng.choice((*GRADIENTS, *PATTERNS))
    first, second = rng.sample(tuple(OBJECT_COLORS), 2)
    colors = jitter(OBJECT_COLORS[first], rng, 10), jitter(OBJECT_COLORS[second], rng, 10)
    image = gradient_or_pattern(kind, *colors, size, rng)
    # in a pattern neither colour comes first, so the words follow the vocabulary's order
    names = (first, second) if kind in GRADIENTS else tuple(sorted((first, second), key=list(OBJECT_COLORS).index))
    return Picture(image, Scene(kind, texture=Texture(kind, names, light_word(np.asarray(image)))))


def _mixed_picture(rng: random.Random, size: tuple[int, int]) -> Picture:
    image = mixed_picture(size, np.random.default_rng(rng.getrandbits(64)))
    seen = look(image)
    return Picture(image, Scene(MIXED, texture=Texture(MIXED, seen.colors, seen.light)))


def random_size(rng: random.Random, largest: int = MAX_SIDE) -> tuple[int, int]:
    """Width and height from 96 pixels up; half of the pictures are square, the others at most 4:3."""
    side = round(MIN_SIDE * (largest / MIN_SIDE) ** rng.random())
    other = side if rng.random() < 0.5 else max(MIN_SIDE, round(side * rng.uniform(0.75, 1.0)))
    return (side, other) if rng.random() < 0.5 else (other, side)


def make_picture(
    seed: str, size: tuple[int, int] | None = None, textures: float = 0.12, mixed: float = 0.13
) -> Picture:
    """The picture of a seed. `textures` and `mixed` are the shares of gradients and patterns, and of mixed pictures."""
    rng = random.Random(seed)
    size = size or random_size(rng)
    draw = rng.random()
    if draw < textures:
        return _texture_picture(rng, size)
    if draw < textures + mixed:
        return _mixed_picture(rng, size)
    scene = object_scene(rng, size)
    return Picture(paint(scene, size, rng), scene)


def picture_seed(seed: int, index: int) -> str:
    """The seed of the index-th picture of a generated folder. Training uses another prefix, so the two never meet."""
    return f"scenes/{seed}/{index}"


def pictures(count: int, seed: int, size: tuple[int, int] | None = None) -> Iterator[Picture]:
    """The first `count` pictures of a folder seed."""
    for index in range(count):
        yield make_picture(picture_seed(seed, index), size)


def encode(image: Image.Image, as_jpeg: bool) -> bytes:
    """A picture file's bytes."""
    buffer = io.BytesIO()
    if as_jpeg:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def write_scenes(folder: Path, count: int, seed: int) -> list[Path]:
    """Write pictures and truth.jsonl into a folder; every fourth picture is a JPEG. Returns the picture files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    lines: list[str] = []
    for index, picture in enumerate(pictures(count, seed)):
        as_jpeg = index % 4 == 3
        path = folder / f"scene-{seed}-{index:05d}.{'jpg' if as_jpeg else 'png'}"
        path.write_bytes(encode(picture.image, as_jpeg))
        files.append(path)
        lines.append(json.dumps(picture.scene.truth(path.name)) + "\n")
    (folder / "truth.jsonl").write_text("".join(lines), encoding="utf-8")
    return files


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw demo pictures with known contents.")
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    files = write_scenes(arguments.folder, arguments.count, arguments.seed)
    print(f"{len(files)} pictures and truth.jsonl in {arguments.folder}")


if __name__ == "__main__":
    main()
