"""Truncated files: failures, or with `allow_truncated` what is there of them, whatever other threads allow."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from caption_assets.config import Media
from caption_assets.lake.store import Lake
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.media.truncated import truncated_files
from caption_assets_tests.media import pictures
from caption_assets_tests.media.pictures import encode, noise, pixels
from caption_assets_tests.media.world import World

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken metadata

SIZE = (160, 120)
ALLOWED = Media(max_pixels=4096, allow_truncated=True)


def open_partly(data: bytes) -> Picture:
    return decode(data, max_megapixels=10, target_pixels=10**6, allow_truncated=True)


def kind_of(data: bytes, *, allowed: bool) -> str:
    """media, partly, or the kind of the failure."""
    try:
        picture = decode(data, max_megapixels=10, target_pixels=10**6, allow_truncated=allowed)
    except DecodeError as error:
        return error.kind
    return "partly" if picture.truncated else "media"


FILES: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "jpeg": ("JPEG", noise(*SIZE), {}),
    "jpeg_grey": ("JPEG", noise(*SIZE).convert("L"), {}),
    "png": ("PNG", noise(*SIZE), {}),
    "png_alpha": ("PNG", noise(*SIZE).convert("RGBA"), {}),
    "png_16": ("PNG", Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 3), {}),
    "png_palette": ("PNG", noise(*SIZE).quantize(64), {}),
    "bmp": ("BMP", noise(*SIZE), {}),
    "tiff": ("TIFF", noise(*SIZE), {"strip_size": 1 << 20}),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_there_is_decoded_and_the_rest_is_grey(name: str) -> None:
    format_name, image, options = FILES[name]
    data = encode(image, format_name, **options)
    cut = data[: len(data) // 2]
    assert kind_of(cut, allowed=False) == "truncated"
    picture, whole = open_partly(cut), open_partly(data)
    assert (picture.truncated, whole.truncated) == (True, False)
    assert (picture.width, picture.height, picture.format) == (*SIZE, format_name)
    assert picture.jpeg is None
    values, expected = pixels(picture.image), pixels(whole.image)
    rows = values if format_name != "BMP" else values[::-1]  # from the bottom up
    expected = expected if format_name != "BMP" else expected[::-1]
    assert np.abs(rows[:30] - expected[:30]).max() <= (6 if format_name == "JPEG" else 0)  # another decoder's rounding
    assert np.abs(rows[-20:] - 128).max() <= (60 if name == "png_palette" else 2)
    assert len(np.unique(rows[-20:].reshape(-1, 3), axis=0)) == 1


def test_a_progressive_jpeg_is_all_there_but_coarse() -> None:
    data = encode(noise(*SIZE), "JPEG", progressive=True, quality=95)
    picture, whole = open_partly(data[: len(data) // 2]), open_partly(data)
    assert picture.truncated
    assert np.abs(pixels(picture.image) - pixels(whole.image)).mean() < 12


def test_a_gif_s_first_frame_is_partly_there() -> None:
    data = encode(noise(*SIZE), "GIF")
    picture, whole = open_partly(data[: len(data) * 2 // 3]), open_partly(data)
    assert picture.truncated
    assert np.array_equal(pixels(picture.image)[:20], pixels(whole.image)[:20])


def test_a_turned_jpeg_is_upright() -> None:
    data = pictures.oriented(6, size=(480, 320), quality=95)
    picture = open_partly(data[: len(data) * 2 // 3])
    assert picture.image.size == (480, 320)
    assert picture.truncated


@pytest.mark.parametrize("name", ["jpeg", "png", "bmp"])
def test_of_a_file_cut_before_its_pixels_nothing_is_made_up(name: str) -> None:
    format_name, image, options = FILES[name]
    data = encode(image, format_name, **options)
    mark, behind = {"jpeg": (b"\xff\xda", 14), "png": (b"IDAT", 8), "bmp": (b"BM", 54)}[name]
    assert kind_of(data[: data.index(mark) + behind], allowed=True) == "truncated"


@pytest.mark.parametrize("name", pictures.valid_files())
def test_at_every_tenth_it_is_a_part_or_what_it_was_before(name: str) -> None:
    data = pictures.valid_files()[name]
    for tenth in range(10):
        cut = data[: len(data) * tenth // 10]
        before, after = kind_of(cut, allowed=False), kind_of(cut, allowed=True)
        assert after == before or (before, after) == ("truncated", "partly")
    whole, allowed = (
        decode(data, max_megapixels=1, target_pixels=10**6, allow_truncated=allowed) for allowed in (False, True)
    )
    assert not allowed.truncated
    assert (allowed.image.tobytes(), allowed.jpeg) == (whole.image.tobytes(), whole.jpeg)


def test_threads_that_allow_and_threads_that_do_not_share_a_process() -> None:
    data = encode(noise(320, 240), "JPEG")
    cut = data[: len(data) // 2]
    with ThreadPoolExecutor(8) as pool:
        kinds = list(pool.map(lambda number: kind_of(cut, allowed=number % 2 == 0), range(200)))
    assert kinds == ["partly", "truncated"] * 100


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_others_have_set_is_theirs_and_does_not_decide_here(
    elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", elsewhere)
    data = encode(noise(*SIZE), "PNG")
    cut = data[: len(data) // 2]
    assert kind_of(cut, allowed=False) == "truncated"
    assert kind_of(cut, allowed=True) == "partly"
    assert bool(ImageFile.LOAD_TRUNCATED_IMAGES) == elsewhere
    with truncated_files(True), truncated_files(False):
        assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_switching_it_on_tries_truncated_files_again_and_nothing_else(lake: Lake, folder: Path, media: Media) -> None:
    World.fill(folder)
    photograph = encode(noise(200, 100), "JPEG")
    (folder / "a_cut.jpg").write_bytes(photograph[: len(photograph) // 2])
    world = World(lake, folder, media)
    assert world.build("first").failure_kinds == {"truncated": 2, "not_an_image": 1}
    kept = {row["uri"]: row["run_id"] for row in world.rows()}

    report = world.build("second", media=ALLOWED)
    assert sorted(world.source.fetched) == ["8_broken.jpg", "a_cut.jpg"]
    assert report.new == 1 + (report.failure_kinds["truncated"] == 0)
    assert {row["uri"]: row["run_id"] for row in world.rows() if row["uri"] in kept} == kept
    (row,) = (row for row in world.rows() if row["uri"].endswith("a_cut.jpg"))
    assert (row["truncated"], row["original_width"], row["original_height"]) == (True, 200, 100)
    assert not any(row["truncated"] for row in world.rows() if row["uri"] in kept)
    world.build("third", media=ALLOWED)
    assert world.source.fetched == []

    assert world.build("off again").failure_kinds == {"truncated": 2, "not_an_image": 1}
    assert "a_cut.jpg" in world.source.fetched
    assert {row["uri"]: row["run_id"] for row in world.rows()} == kept
