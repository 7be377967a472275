"""Big PNGs in bands: the same pixels as decoded whole, and every defect told."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from caption_assets.media import bands
from caption_assets.media.decode import DecodeError, decode
from caption_assets.media.png import BandedPng
from caption_assets_tests.media.pictures import encode, noise, png_chunk, quarters, swapped_profile


def whole(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def of_mode(mode: str, width: int = 61, height: int = 47) -> Image.Image:
    image = noise(width, height)
    if mode == "P":
        return image.quantize(200)
    if mode in {"LA", "RGBA"}:
        image = image.convert(mode)
        image.putalpha(noise(width, height, seed=3).convert("L"))
        return image
    return image.convert(mode)


def deep(mode: str, width: int = 61, height: int = 47, chunks: bytes = b"") -> bytes:
    """A PNG of sixteen bits a sample, with more chunks before its pixels."""
    values = np.random.default_rng(5).integers(0, 1 << 16, (height, width, len(mode)), np.uint16)
    data: bytes = cv2.imencode(".png", values)[1].tobytes()
    return data[:33] + chunks + data[33:]


def png_of(mode: str, bits: int) -> bytes:
    return deep(mode) if bits == 16 else encode(of_mode(mode), "PNG")


@pytest.mark.parametrize(
    ("mode", "bits"), [("L", 8), ("RGB", 8), ("P", 8), ("LA", 8), ("RGBA", 8), ("RGB", 16), ("RGBA", 16)]
)
@pytest.mark.parametrize("rows", [1, 7, 46, 47, 100])
def test_bands_are_the_picture(mode: str, bits: int, rows: int) -> None:
    data = png_of(mode, bits)
    bands = list(BandedPng(data).bands(rows))
    assert [band.height for band in bands] == [min(rows, 47 - top) for top in range(0, 47, rows)]
    joined = np.concatenate([np.asarray(band) for band in bands])
    assert np.array_equal(joined, np.asarray(whole(data)))
    assert {band.mode for band in bands} == {whole(data).mode}
    assert {band.mode == "P" and bytes(band.getpalette() or []) for band in bands} == {
        mode == "P" and bytes(whole(data).getpalette() or [])
    }


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=400),
    st.integers(1, 20),
    st.integers(1, 9),
    st.lists(st.integers(0, 4)),
    st.sampled_from([8, 16]),
)
def test_every_filter_is_undone(pixels: bytes, width: int, rows: int, filters: list[int], bits: int) -> None:
    row = 3 * width * bits // 8
    lines = [pixels[start : start + row].ljust(row, b"x") for start in range(0, len(pixels), row)]
    stream = b"".join(bytes([filters[i % len(filters)] if filters else 0]) + line for i, line in enumerate(lines))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(lines), bits, 2, 0, 0, 0))
    compressed = zlib.compress(stream)
    parts = [png_chunk(b"IDAT", compressed[at : at + 9]) for at in range(0, len(compressed), 9)]
    data = b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + png_chunk(b"IEND", b"")
    joined = np.concatenate([np.asarray(band) for band in BandedPng(data).bands(rows)])
    assert np.array_equal(joined, np.asarray(whole(data)))


def assert_same_in_bands(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is the same picture whether it counts as small or as big."""
    small = decode(data, max_megapixels=10, target_pixels=2000)
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr("caption_assets.media.pixels._BAND_PIXELS", 3000)
    big = decode(data, max_megapixels=10, target_pixels=2000)
    assert np.array_equal(small.pixels, big.pixels)
    assert (small.width, small.height, small.metadata) == (big.width, big.height, big.metadata)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"icc_profile": swapped_profile()}, {"transparency": 3}])
def test_a_big_one_comes_out_as_a_small_one(mode: str, options: dict[str, object], monkeypatch) -> None:  # type: ignore
    if "transparency" in options and mode != "P":
        options = {"transparency": {"L": 7, "RGB": (1, 2, 3)}.get(mode)} if mode in {"L", "RGB"} else {}
    if mode in {"L", "LA"} and "icc_profile" in options:
        options = {}
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(of_mode(mode, 301, 203), "PNG", exif=exif, **options)
    assert_same_in_bands(data, monkeypatch)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_big_deep_one_comes_out_as_a_small_one(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(swapped_profile()))
    data = deep(mode, 301, 203, profile + png_chunk(b"eXIf", exif.tobytes()[6:]))
    assert_same_in_bands(data, monkeypatch)


def test_exif_behind_the_pixels_turns_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    plain = encode(quarters(), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 3
    data = plain[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:]
    turned = decode(data, max_megapixels=1, target_pixels=10**6).pixels
    assert np.array_equal(turned, np.asarray(quarters())[::-1, ::-1])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_one_is_told(share: float, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    data = png_of("RGB", bits)
    with pytest.raises(DecodeError) as caught:
        decode(data[: int(len(data) * share)], max_megapixels=1, target_pixels=1024)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_damaged_one_is_told(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    data = bytearray(png_of("RGB", bits))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DecodeError) as caught:
        decode(bytes(data), max_megapixels=1, target_pixels=1024)
    assert caught.value.kind == "unreadable"


def test_a_bomb_inflates_no_further_than_its_picture() -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", bomb) + png_chunk(b"IEND", b"")
    assert sum(len(piece) for piece in BandedPng(data)._inflated(310)) <= 620


def test_rows_that_are_no_rows_are_told() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress((b"\x09" + bytes(18)) * 2))  # there is no such filter
    with pytest.raises(OSError, match="broken PNG"):
        list(BandedPng(b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")).bands(1))


@pytest.mark.parametrize(
    "data",
    [
        encode(noise(9, 9).convert("1"), "PNG"),
        encode(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG"),
        deep("RGB", chunks=png_chunk(b"tRNS", bytes(6))),
    ],
)
def test_others_are_left_to_pillow(data: bytes) -> None:
    with pytest.raises(ValueError, match="sixteen bits"):
        BandedPng(data)
    with pytest.raises(ValueError, match="no PNG"):
        BandedPng(encode(noise(9, 9), "JPEG"))
