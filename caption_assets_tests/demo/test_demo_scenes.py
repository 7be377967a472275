"""The scene generator: what it says about a picture is what the pixels show."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption_assets.demo.scenes import (
    MAX_SIDE,
    MIN_SIDE,
    Picture,
    Scene,
    make_picture,
    picture_seed,
    pictures,
    random_size,
    write_scenes,
)
from caption_assets.demo.vocabulary import BACKGROUNDS, OBJECT_COLORS, SHAPES, SIZES, TEXTURES

SIZE = (300, 240)


def object_pictures(count: int, size: tuple[int, int] = SIZE) -> list[Picture]:
    """Pictures of objects only."""
    return [make_picture(f"test/{index}", size, textures=0, mixed=0) for index in range(count)]


def test_a_seed_decides_everything() -> None:
    first, second = (make_picture(picture_seed(3, 5)) for _ in range(2))
    assert first.scene == second.scene
    assert first.image.tobytes() == second.image.tobytes()
    assert make_picture(picture_seed(3, 6)).image.tobytes() != first.image.tobytes()
    assert make_picture(picture_seed(4, 5)).image.tobytes() != first.image.tobytes()


def test_one_picture_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = list(pictures(3, seed=11)), list(pictures(6, seed=11))
    assert [one.scene for one in few] == [one.scene for one in many[:3]]


def test_objects_stay_within_the_vocabulary_and_the_picture() -> None:
    for picture in object_pictures(200):
        assert picture.scene.background in BACKGROUNDS
        assert 1 <= len(picture.scene.objects) <= 4
        assert len({(o.color, o.shape) for o in picture.scene.objects}) == len(picture.scene.objects)
        for shown in picture.scene.objects:
            assert shown.color in OBJECT_COLORS
            assert shown.shape in SHAPES
            low, high = SIZES[shown.size]
            x0, y0, x1, y1 = shown.box
            assert 0 < x0 < x1 < 1
            assert 0 < y0 < y1 < 1
            extent = (x1 - x0) * SIZE[0] / min(SIZE)
            assert low - 1e-6 <= extent <= high + 1e-6


def test_objects_do_not_overlap_and_have_one_order_and_position() -> None:
    for picture in object_pictures(300):
        boxes = [shown.box for shown in picture.scene.objects]
        centers = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes]
        assert [x for x, _ in centers] == sorted(x for x, _ in centers)
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
            assert abs((a[0] + a[2]) - (b[0] + b[2])) / 2 > 0.05
        for value in itertools.chain.from_iterable(centers):
            assert min(abs(value - 1 / 3), abs(value - 2 / 3)) > 0.025


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(96, 96), (400, 300), (900, 1000)])
def test_boxes_are_tight_around_the_drawn_pixels(shape: str, size: tuple[int, int]) -> None:
    seen = 0
    for index in itertools.count():
        picture = make_picture(f"tight/{index}", size, textures=0, mixed=0)
        if len(picture.scene.objects) != 1 or picture.scene.objects[0].shape != shape:
            continue
        pixels = np.asarray(picture.image).astype(int)
        differs = np.abs(pixels - pixels[0, 0]).sum(2) > 40
        ys, xs = np.nonzero(differs)
        x0, y0, x1, y1 = picture.scene.objects[0].box
        drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        expected = (x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1])
        # the tips of polygons are thinner than a pixel, and their antialiasing fades
        slack = max(2.0, 0.02 * (expected[2] - expected[0]))
        assert np.abs(np.array(drawn) - np.array(expected)).max() <= slack, (drawn, expected)
        seen += 1
        if seen == 3:
            return


def test_pixels_have_the_named_colors() -> None:
    for picture in object_pictures(60, (400, 400)):
        corner = np.asarray(picture.image)[0, 0].astype(int)
        assert np.abs(corner - BACKGROUNDS[picture.scene.background]).max() <= 8
        for shown in picture.scene.objects:
            x0, y0, x1, y1 = (round(value * 400) for value in shown.box)
            inside = np.asarray(picture.image)[y0:y1, x0:x1].reshape(-1, 3).astype(int)
            near = np.abs(inside - OBJECT_COLORS[shown.color]).max(1) <= 11
            assert near.mean() > 0.2, shown


def test_textures_have_no_objects() -> None:
    kinds = set()
    for index in range(120):
        scene = make_picture(f"texture/{index}", (96, 96), textures=0.6, mixed=0.4).scene
        assert scene.texture is not None
        assert scene.objects == ()
        assert scene.background == scene.texture.kind
        kinds.add(scene.texture.kind)
        assert scene.texture.light in ("dark", "medium", "bright")
    assert kinds == set(TEXTURES)


def test_sizes_cover_the_range() -> None:
    rng = random.Random(0)
    sizes = [random_size(rng) for _ in range(500)]
    assert all(MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE for size in sizes)
    assert min(max(size) for size in sizes) < 120
    assert max(max(size) for size in sizes) > 900
    assert 0.3 < sum(width == height for width, height in sizes) / 500 < 0.7


def test_written_folder_matches_its_truth(tmp_path: Path) -> None:
    files = write_scenes(tmp_path, 8, seed=2)
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [file.name for file in files]
    assert {file.suffix for file in files} == {".png", ".jpg"}
    for file, line, picture in zip(files, lines, pictures(8, 2), strict=True):
        assert set(line) == {"file", "background", "objects", "texture"}
        scene = Scene.from_truth(line)
        assert (scene.background, scene.texture) == (picture.scene.background, picture.scene.texture)
        for read, drawn in zip(scene.objects, picture.scene.objects, strict=True):
            assert (read.color, read.shape, read.size) == (drawn.color, drawn.shape, drawn.size)
            assert read.box == pytest.approx(drawn.box, abs=1e-4)
        with Image.open(file) as image:
            assert image.size == picture.image.size
            if file.suffix == ".png":
                assert image.convert("RGB").tobytes() == picture.image.tobytes()


def test_command_line_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['scenes', '--count', '2', '--seed', '9', sys.argv[1]]\n"
        "from caption_assets.demo.scenes import main; main()\n"
        "assert not {'torch', 'transformers', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len((tmp_path / "truth.jsonl").read_text().splitlines()) == 2
