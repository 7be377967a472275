"""Big PNGs in bands: the same pixels as decoded whole, and every defect told."""

import io
import struct
import tracemalloc
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


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
KINDS = {"L": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}


def interlaced(mode: str, bits: int, width: int, height: int, chunks: bytes = b"", seed: int = 7) -> bytes:
    """An interlaced PNG of any filters and values (of a palette's first hundred)."""
    rng, stream = np.random.default_rng(seed), b""
    for left, top, across, down in ADAM7:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        for _ in range(rows if columns > 0 else 0):
            values = rng.integers(0, 100 if mode == "P" else 256, columns * len(mode) * bits // 8, np.uint8)
            stream += bytes([0 if mode == "P" else rng.integers(5)]) + values.tobytes()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, KINDS[mode], 0, 0, 1))
    palette = png_chunk(b"PLTE", rng.bytes(300)) if mode == "P" else b""
    pixels = zlib.compress(stream)
    parts = [png_chunk(b"IDAT", pixels[start : start + 777]) for start in range(0, len(pixels), 777)]
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunks + b"".join(parts) + png_chunk(b"IEND", b"")


EVERY_KIND = [("L", 8), ("RGB", 8), ("P", 8), ("LA", 8), ("RGBA", 8), ("RGB", 16), ("RGBA", 16)]


@pytest.mark.parametrize(("mode", "bits"), EVERY_KIND)
@pytest.mark.parametrize("rows", [1, 3, 8, 13, 100])
@pytest.mark.parametrize(("width", "height"), [(61, 47), (1, 1), (2, 9), (9, 2), (5, 1), (1, 5), (3, 3), (8, 8)])
def test_an_interlaced_one_is_woven(mode: str, bits: int, rows: int, width: int, height: int) -> None:
    data = interlaced(mode, bits, width, height)
    found = list(BandedPng(data).bands(rows))
    assert [band.height for band in found] == [min(rows, height - top) for top in range(0, height, rows)]
    assert np.array_equal(np.concatenate([np.asarray(band) for band in found]), np.asarray(whole(data)))
    assert {band.mode for band in found} == {whole(data).mode}
    assert {bytes(band.getpalette() or []) for band in found} == {bytes(whole(data).getpalette() or [])}


@pytest.mark.parametrize(("mode", "bits"), EVERY_KIND)
def test_a_big_interlaced_one_comes_out_as_a_small_one(mode: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = png_chunk(b"eXIf", exif.tobytes()[6:])
    if (mode, bits) in {("L", 8), ("RGB", 8), ("P", 8)}:
        chunks += png_chunk(b"tRNS", bytes(range(0, 200, 2)) if mode == "P" else bytes([0, 50] * len(mode)))
    assert_same_in_bands(interlaced(mode, bits, 301, 203, chunks), monkeypatch)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_interlaced_one_is_told(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    data = interlaced("RGB", 8, 61, 47)
    with pytest.raises(DecodeError) as caught:
        decode(data[: int(len(data) * share)], max_megapixels=1, target_pixels=1024)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_damaged_interlaced_one_is_told(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    data = bytearray(interlaced("RGB", 8, 61, 47))
    data[int(len(data) * share)] ^= 0xFF
    with pytest.raises(DecodeError) as caught:
        decode(bytes(data), max_megapixels=1, target_pixels=1024)
    assert caught.value.kind in {"unreadable", "truncated"}  # by whether a chunk's length is what is damaged


@pytest.mark.parametrize("interlacing", [0, 1])
@pytest.mark.parametrize("behind", [b"", b"more than the rows"])
def test_the_sum_of_the_last_chunk_is_looked_at_too(interlacing: int, behind: bytes) -> None:
    rows = ADAM7 if interlacing else ((0, 0, 1, 1),)
    size = sum(-(-(40 - top) // down) * (1 + 3 * -(-(40 - left) // across)) for left, top, across, down in rows)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, interlacing))
    pixels = bytearray(png_chunk(b"IDAT", zlib.compress(bytes(size)) + behind))
    head, tail = b"\x89PNG\r\n\x1a\n" + header, png_chunk(b"IEND", b"")
    assert sum(band.height for band in BandedPng(head + pixels + tail).bands(7)) == 40
    pixels[-1] ^= 1
    with pytest.raises(OSError, match="bad checksum in IDAT"):
        list(BandedPng(head + pixels + tail).bands(7))


def test_rows_that_are_missing_are_told() -> None:
    """A stream that ends too early in a file that does not."""
    data = interlaced("RGB", 8, 61, 47)
    taller = data[:16] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 61, 48, 8, 2, 0, 0, 1))[8:] + data[33:]
    with pytest.raises(OSError, match="truncated"):
        list(BandedPng(taller).bands(8))


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


@pytest.mark.parametrize("interlacing", [0, 1])
def test_a_bomb_inflates_no_further_than_its_picture(interlacing: int) -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, interlacing))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", bomb) + png_chunk(b"IEND", b"")
    list(BandedPng(data).bands(10))
    tracemalloc.start()
    list(BandedPng(data).bands(10))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3_000_000


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
