"""Pixels: as good as a full decode shrunk by the book, whatever the size, the scale and the format."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from caption_assets.media.decode import decode
from caption_assets.media.pixels import fit, jpeg_scale
from caption_assets_tests.media.pictures import encode, noise, quarters


def detailed(width: int, height: int) -> Image.Image:
    """Edges and shades at many places, so that a shift of a fraction of a pixel shows."""
    image = noise(width, height, seed=width)
    for number in range(12):
        left, top = (number * 37) % width, (number * 53) % height
        image.paste((number * 20, 255 - number * 20, 128), (left, top, left + width // 9, top + height // 7))
    return image


def psnr(image: Image.Image, pixels: np.ndarray) -> float:  # type: ignore[type-arg]
    wanted = image.convert("RGB").resize(pixels.shape[1::-1], Image.Resampling.LANCZOS)
    error = np.square(np.asarray(wanted).astype(float) - pixels).mean()
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("size", [(640, 480), (641, 481), (647, 487), (1001, 333), (333, 1001)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.21, 0.1, 0.03, 0.01])
def test_a_shrunken_jpeg_is_as_good_as_one_decoded_in_full(size: tuple[int, int], share: float) -> None:
    image = detailed(*size)
    data = encode(image, "JPEG", quality=95)
    pixels = decode(data, max_megapixels=10, target_pixels=int(size[0] * size[1] * share)).pixels
    assert pixels.shape[1::-1] == fit(*size, int(size[0] * size[1] * share))
    assert psnr(image, pixels) > 27  # a shift of half a pixel: 24


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "I;16", "1"])
@pytest.mark.parametrize("size", [(647, 487), (1999, 1333)])
def test_other_formats_are_averaged_band_by_band(mode: str, size: tuple[int, int]) -> None:
    image = detailed(*size)
    stored = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    pixels = decode(encode(stored, "TIFF"), max_megapixels=10, target_pixels=20_000).pixels
    wanted = image.convert("L").convert("RGB") if mode in {"L", "I;16", "1"} else image
    assert psnr(wanted, pixels) > (18 if mode in {"1", "P"} else 26)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_scale_is_the_smallest_that_is_not_below(width: int, height: int, wide: int, high: int) -> None:
    wide, high = min(width, wide), min(height, high)
    n = jpeg_scale((width, height), (wide, high))
    enough = [m for m in range(1, 9) if -(-width * m // 8) >= wide and -(-height * m // 8) >= high]
    quick = enough[0] not in {6, 7} or width * height > 16_000_000
    assert n == (enough[0] if quick else 8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1024, 90_000), st.sampled_from(["JPEG", "PNG"]))
def test_every_size_comes_out_as_it_should(width: int, height: int, budget: int, format_name: str) -> None:
    data = encode(quarters(width, height), format_name)
    picture = decode(data, max_megapixels=10, target_pixels=budget)
    assert picture.pixels.shape == (*fit(width, height, budget)[::-1], 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous


_PEAK = """
import io, sys
from PIL import Image
from caption_assets.media.decode import decode
from caption_assets.media.memory import DECODING_BYTES
from caption_assets_tests import resident
data = open(sys.argv[1], "rb").read()
before = resident.most()
decode(data, max_megapixels=100, target_pixels=1_000_000, max_bytes=len(data) + DECODING_BYTES)
print(round(resident.most() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("format_name", "options", "bound"),
    [
        ("JPEG", {}, 40),
        ("JPEG", {"progressive": True}, 350),
        ("PNG", {"compress_level": 1}, 80),
        ("TIFF", {"compression": "tiff_lzw"}, 80),
        ("BMP", {}, 80),
        ("GIF", {}, 150),
    ],
)
def test_a_hundred_megapixels_take_bounded_memory(tmp_path, format_name, options, bound) -> None:  # type: ignore
    image = Image.new("L" if format_name == "GIF" else "RGB", (10_000, 10_000), 200)
    file = tmp_path / "big"
    file.write_bytes(encode(image, format_name, **options))
    del image
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, str(file)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(told.stdout) < bound
