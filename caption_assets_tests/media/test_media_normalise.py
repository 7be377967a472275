"""Normalising: within the budget, never enlarged, the same bytes each time, nothing private in them."""

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caption_assets.config import Media
from caption_assets.media.decode import decode
from caption_assets.media.normalise import Normalised, normalisation_id, normalise
from caption_assets.media.pixels import fit
from caption_assets_tests.media import pictures
from caption_assets_tests.media.pictures import encode, noise, quarters


def normalised(data: bytes, media: Media) -> Normalised:
    picture = decode(data, max_megapixels=media.max_megapixels, target_pixels=media.max_pixels)
    result = normalise(picture, media)
    stored = Image.open(io.BytesIO(result.data))
    stored.load()
    assert stored.size == (result.width, result.height)
    assert stored.format == {"jpg": "JPEG", "png": "PNG"}[result.extension]
    return result


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1024, 10**7))
def test_fit_keeps_budget_and_proportions(width: int, height: int, budget: int) -> None:
    new_width, new_height = fit(width, height, budget)
    assert 1 <= new_width <= width
    assert 1 <= new_height <= height
    assert new_width * new_height <= budget
    assert max(new_width, new_height) <= 65_500
    if width * height <= budget and max(width, height) <= 65_500:
        assert (new_width, new_height) == (width, height)
    elif min(new_width, new_height) > 50:
        assert abs(new_width / new_height / (width / height) - 1) < 0.03
        if max(width, height) <= 65_500:
            assert (new_width + 1) * (new_height + 1) > budget * 0.99  # and no smaller than it needs to be


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 20_000), (20_000, 1), (3, 3), (64, 64), (65, 64), (300, 200), (1, 90_000)]
)
@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_result_is_within_the_budget_and_not_enlarged(size: tuple[int, int], format_name: str) -> None:
    if max(size) > 65_500:
        format_name = "PNG"  # no JPEG is that long
    media = Media(max_pixels=4096)
    result = normalised(encode(noise(*size), format_name), media)
    assert result.width * result.height <= media.max_pixels
    assert 1 <= result.width <= size[0]
    assert 1 <= result.height <= size[1]
    if size[0] * size[1] <= media.max_pixels:
        assert (result.width, result.height) == size


def test_small_drawings_stay_lossless_and_big_ones_do_not() -> None:
    small = normalised(encode(quarters(), "PNG"), Media())
    assert small.extension == "png"
    assert Image.open(io.BytesIO(small.data)).tobytes() == quarters().tobytes()
    assert normalised(encode(quarters(513, 512), "PNG"), Media()).extension == "jpg"
    assert normalised(encode(quarters(512, 512), "PNG"), Media()).extension == "png"
    assert normalised(encode(quarters(), "WEBP"), Media()).extension == "jpg"


def test_a_fitting_jpeg_keeps_its_bytes_but_for_the_metadata() -> None:
    data = pictures.jpeg_with_everything()
    result = normalised(data, Media(quality=1))
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(result.data))
    assert before.tobytes() == after.tobytes()
    assert b"SECRET" not in result.data
    assert len(result.data) < len(data)


def all_files() -> dict[str, bytes]:
    image = noise(64, 48)
    return pictures.valid_files() | {
        "turned": pictures.oriented(6, comment=b"SECRET"),
        "everything": pictures.jpeg_with_everything(),
        "other_profile": encode(image, "JPEG", icc_profile=pictures.swapped_profile(), comment=b"SECRET"),
        "png_other_profile": encode(image, "PNG", icc_profile=pictures.swapped_profile()),
        "gif_comment": encode(quarters(), "GIF", comment=b"SECRET"),
        "too_big": encode(noise(128, 64), "JPEG", comment=b"SECRET"),
        "too_big_png": encode(noise(128, 64), "PNG", icc_profile=pictures.srgb(), dpi=(300, 300)),
    }


@pytest.mark.parametrize("name", all_files())
def test_nothing_but_the_picture_is_stored(name: str) -> None:
    result = normalised(all_files()[name], Media(max_pixels=4096))
    stored = Image.open(io.BytesIO(result.data))
    stored.load()
    assert stored.getexif() == {}
    assert set(stored.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive"} | {
        "progression",
        "adobe",
        "adobe_transform",
    }
    assert b"SECRET" not in result.data


def digests() -> str:
    """One line for each picture and what it becomes."""
    import hashlib

    media = Media(max_pixels=4096)
    lines = []
    for name, data in all_files().items():
        result = normalised(data, media)
        lines.append(f"{name} {hashlib.sha256(result.data).hexdigest()} {result.phash} {result.width}x{result.height}")
    return "\n".join(lines)


def test_another_process_makes_the_same_bytes() -> None:
    code = f"from {__name__} import digests; print(digests())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == digests()


def test_the_id_names_what_decides_the_bytes() -> None:
    ids = {normalisation_id(media) for media in (Media(), Media(max_pixels=2048), Media(quality=80))}
    assert len(ids) == 3
    assert all("keepjpeg" in each for each in ids)
    assert normalisation_id(Media()) == normalisation_id(Media(max_megapixels=1, max_file_mb=1))


def test_phash_tells_pictures_apart_and_copies_not() -> None:
    media = Media(max_pixels=4096)
    first = normalised(encode(noise(200, 150), "JPEG", quality=95), media).phash
    copy = normalised(encode(noise(200, 150).resize((100, 75)), "PNG"), media).phash
    other = normalised(encode(noise(200, 150, seed=1), "JPEG"), media).phash
    assert bin(int(first, 16) ^ int(copy, 16)).count("1") <= 6
    assert bin(int(first, 16) ^ int(other, 16)).count("1") > 12
