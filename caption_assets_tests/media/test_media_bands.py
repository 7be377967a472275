"""Big pictures in bands: what comes out is what Pillow makes of the whole, however the file is stored."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import ExifTags, Image

from caption_assets.media import bands, webp
from caption_assets.media.bands import bands_of
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.sources.spool import Bytes
from caption_assets_tests.media.pictures import encode, noise, oriented, pixels, quarters, swapped_profile

SIZE = (301, 203)


def decoded(data: bytes, target_pixels: int = 2000) -> Picture:
    return decode(data, max_megapixels=10, target_pixels=target_pixels)


def small_and_big(data: bytes, monkeypatch: pytest.MonkeyPatch, target_pixels: int = 2000) -> tuple[Picture, Picture]:
    """The same file decoded as a whole, and in bands of few rows."""
    small = decoded(data, target_pixels)
    with monkeypatch.context() as patch:
        used: list[bool] = []
        patch.setattr(bands, "WHOLE_PIXELS", 1000)
        patch.setattr(bands, "COPIED_PIXELS", 1000)
        patch.setattr("caption_assets.media.pixels._BAND_PIXELS", 3000)
        patch.setattr("caption_assets.media.tiff._PIECE", 4000)
        patch.setattr("caption_assets.media.tiff._BIG_PIXELS", 20_000)
        patch.setattr("caption_assets.media.tiff._BIG_BY_LIBTIFF", 20_000)

        def watched(opened: Image.Image, file: Bytes, size: tuple[int, int]) -> bands.Bands | None:
            big = bands_of(opened, file, size)
            used.append(big is not None)
            return big

        patch.setattr("caption_assets.media.decode.bands_of", watched)
        big = decoded(data, target_pixels)
    assert used == [True]
    return small, big


def assert_same(small: Picture, big: Picture, most: int = 0) -> None:
    assert np.abs(pixels(small.image) - pixels(big.image)).max() <= most
    assert (small.width, small.height, small.frames) == (big.width, big.height, big.frames)
    assert small.metadata == big.metadata


def of_mode(mode: str) -> Image.Image:
    image = noise(*SIZE)
    grey = np.asarray(image.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) * 3 - 100)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 1000 - 7)
    if mode == "RGBA":
        image.putalpha(image.convert("L").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "I;16", "F", "I", "LAB"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiffs_of_every_mode(mode: str, compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(of_mode(mode), "TIFF", compression=compression, strip_size=9000)
    assert_same(*small_and_big(data, monkeypatch))


@pytest.mark.parametrize("options", [{"compression": "jpeg"}, {"compression": "jpeg", "quality": 100}])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_tiffs_of_jpeg_strips(mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(*small_and_big(encode(of_mode(mode), "TIFF", strip_size=20_000, **options), monkeypatch), most=1)


@pytest.mark.parametrize(("mode", "photometric"), [("RGB", 2), ("CMYK", 5), ("RGB", 6)])
def test_a_tiff_of_one_jpeg_strip(mode: str, photometric: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = of_mode(mode).crop((0, 0, SIZE[0], 120))
    data = encode(image, "TIFF", compression="jpeg", strip_size=1 << 30)
    if photometric == 6:  # luma and chroma
        data = pyvips.Image.new_from_array(np.asarray(image)).tiffsave_buffer(compression="jpeg", Q=80)
    with Image.open(io.BytesIO(data)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
    assert (len(tags[273]), tags[262]) == (1, photometric)
    assert_same(*small_and_big(data, monkeypatch), most=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_turned_tiffs(orientation: int, compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"compression": compression, "strip_size": 500, "icc_profile": swapped_profile()}
    data = oriented(orientation, "TIFF", size=(100, 60), **options)
    assert_same(*small_and_big(data, monkeypatch, 1500))


def tiff(
    values: NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    tile: int = 0,
    separate: bool = False,
    deflate: bool = False,
    one: bool = False,
) -> bytes:
    """A TIFF of (height, width, 3) values: tiled, in planes, or of strips, of 32 rows unless `one` is to hold all."""
    height, width, _ = values.shape
    values = values.astype(values.dtype.newbyteorder(order))
    planes = [values[..., [channel]] for channel in range(3)] if separate else [values]
    if tile:
        edge = (-height % tile, -width % tile)
        planes = [np.pad(plane, ((0, edge[0]), (0, edge[1]), (0, 0))) for plane in planes]
        cut = [
            plane[top : top + tile, left : left + tile]
            for plane in planes
            for top in range(0, height, tile)
            for left in range(0, width, tile)
        ]
    else:
        rows = 32 if (separate or deflate) and not one else height
        cut = [plane[top : top + rows] for plane in planes for top in range(0, height, rows)]
    stored = [zlib.compress(part.tobytes()) if deflate else part.tobytes() for part in cut]
    offsets = [8 + sum(len(part) for part in stored[:number]) for number in range(len(stored))]
    bits = 8 * values.dtype.itemsize
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * 3), 259: ("H", [8 if deflate else 1]),
        262: ("H", [2]), 277: ("H", [3]), 284: ("H", [2 if separate else 1]), 339: ("H", [1] * 3),
    }  # fmt: skip
    if tile:
        sizes = [len(part) for part in stored]
        tags |= {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", offsets), 325: ("I", sizes)}
    else:
        tags |= {273: ("I", offsets), 278: ("I", [rows]), 279: ("I", [len(part) for part in stored])}
    start = 8 + sum(len(part) for part in stored)
    entries, behind = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(data) > 4:
            place = start + 6 + 12 * len(tags) + len(behind)
            data, behind = struct.pack(f"{order}I", place), behind + data
        entries += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(numbers)) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + b"".join(stored) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deep", [False, True], ids=["8", "16"])
@pytest.mark.parametrize("stored", [{}, {"tile": 64}, {"separate": True}, {"tile": 64, "separate": True}], ids=str)
@pytest.mark.parametrize("deflate", [False, True], ids=["raw", "deflate"])
def test_tiffs_however_they_are_stored(
    order: Literal["<", ">"], deep: bool, stored: dict[str, Any], deflate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.asarray(noise(*SIZE))
    if deep:
        values = values.astype(np.uint16) * 257
    data = tiff(values, order=order, deflate=deflate, **stored)
    try:
        small, big = small_and_big(data, monkeypatch)
    except DecodeError:
        assert deep  # Pillow does not know planes of sixteen bits
        assert "separate" in stored
    else:
        assert_same(small, big)
        if not (deep and "separate" in stored):
            assert np.abs(pixels(big.image).mean() - values.mean() / (257 if deep else 1)) < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("upwards", [True, False])
def test_bitmaps(mode: str, upwards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(of_mode(mode), "BMP")
    if not upwards:
        start, row = struct.unpack("<I", data[10:14])[0], (SIZE[0] * len(mode) * 8 + 31) // 32 * 4
        rows = [data[start + row * number :][:row] for number in range(SIZE[1])]
        data = data[:22] + struct.pack("<i", -SIZE[1]) + data[26:start] + b"".join(reversed(rows))
    assert_same(*small_and_big(data, monkeypatch))


@pytest.mark.parametrize("format_name", ["WEBP", "AVIF", "HEIF", "JXL"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("lossless", [False, True])
def test_what_decodes_only_as_a_whole(
    format_name: str, mode: str, lossless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    told = exif.tobytes() if format_name in {"HEIF", "JXL"} else exif
    options: dict[str, Any] = {"lossless": True} if lossless and format_name in {"WEBP", "JXL"} else {"quality": 90}
    if format_name == "HEIF":
        options["chroma"] = 444  # of less, by libheif, it is that of the nearest pixel
    data = encode(of_mode(mode), format_name, exif=told, **options)
    if format_name != "WEBP":  # which is shrunk as it is decoded
        assert_same(*small_and_big(data, monkeypatch), most=2)
    assert_same(*small_and_big(data, monkeypatch, 10**6), most=2)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("target", [2000, 20_000, 100_000])
@pytest.mark.parametrize("transparent", [False, True])
def test_webp_is_shrunk_as_it_is_decoded(
    lossless: bool, target: int, transparent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out is as good as the whole picture shrunk by Lanczos, in its colours, upright."""
    image = noise(300, 200).resize((1203, 811), Image.Resampling.BICUBIC)
    if transparent:
        image.putalpha(noise(300, 200, seed=9).convert("L").resize(image.size, Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    data = encode(image, "WEBP", quality=90, lossless=lossless, exif=exif, icc_profile=swapped_profile())
    small, big = small_and_big(data, monkeypatch, target)
    assert_same(small, big, most=9)
    with monkeypatch.context() as patch:
        patch.setattr(bands, "COPIED_PIXELS", 1000)
        plain = pixels(decoded(encode(image, "WEBP", quality=90, lossless=lossless), target).image)
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(image, mask=image if transparent else None)
    wanted = np.asarray(on_white.resize(plain.shape[1::-1], Image.Resampling.LANCZOS), np.float64)
    assert 10 * np.log10(255**2 / ((plain - wanted) ** 2).mean()) > 45


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("target", [2000, 10**6])
def test_of_an_animated_webp_only_the_first_frame_is_decoded(
    mode: str, lossless: bool, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [of_mode(mode), of_mode(mode).transpose(Image.Transpose.ROTATE_180), Image.new(mode, SIZE, "white")]
    options: dict[str, Any] = {"lossless": lossless, "icc_profile": swapped_profile(), "duration": 50}
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options)
    small, big = small_and_big(data, monkeypatch, target)
    assert big.frames == 3
    assert_same(small, big, most=20 if target == 2000 and not lossless else 5)
    assert np.abs(pixels(small.image) - pixels(big.image)).mean() < 2.5  # of another frame 60


def test_an_animated_webp_that_begins_with_a_part_of_its_picture_is_left_to_pillow() -> None:
    first = Image.new("RGBA", SIZE)
    first.paste(quarters(), (100, 60))
    data = encode(first, "WEBP", save_all=True, append_images=[of_mode("RGBA")], minimize_size=True)
    assert webp.first_frame(data, SIZE) is None
    whole = encode(of_mode("RGB"), "WEBP", save_all=True, append_images=[quarters(*SIZE)])
    assert webp.first_frame(whole, SIZE) is not None
    assert webp.first_frame(whole, (SIZE[0] + 1, SIZE[1])) is None
    assert webp.first_frame(encode(of_mode("RGB"), "WEBP"), SIZE) is None
    for end in range(len(whole)):
        webp.first_frame(whole[:end], SIZE)  # never an exception


@pytest.mark.parametrize("profile", [b"", swapped_profile()])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_how_a_webp_is_coded_is_told_by_its_chunks(mode: str, profile: bytes) -> None:
    kinds = {
        lossless: webp.chunks(encode(of_mode(mode), "WEBP", lossless=lossless, icc_profile=profile))
        for lossless in (False, True)
    }
    assert webp.LOSSLESS in kinds[True]
    assert webp.LOSSLESS not in kinds[False]
    assert (webp.ALPHA in kinds[False]) == (mode == "RGBA")
    for damaged in (b"", b"RIFF", encode(of_mode(mode), "WEBP")[:17], b"RIFF\0\0\0\0WEBP" + bytes(40)):
        assert webp.LOSSLESS not in webp.chunks(damaged)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_cut_webp_is_told_where_it_would_be_shrunk(cut: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "COPIED_PIXELS", 1000)
    data = encode(noise(301, 203), "WEBP")
    with pytest.raises(DecodeError) as caught:
        decoded(data[: int(len(data) * cut)])
    assert caught.value.kind == "truncated"
    damaged = data[: len(data) // 3] + bytes(len(data) - len(data) // 3)
    with pytest.raises(DecodeError) as caught:
        decoded(damaged[:40] + b"\xff" * 20 + damaged[60:])
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_tiffs_of_one_compressed_strip(mode: str, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(of_mode(mode), "TIFF", compression=compression, strip_size=1 << 30)
    assert_same(*small_and_big(data, monkeypatch))


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_tiffs_of_one_compressed_strip(order: Literal["<", ">"], monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).integers(0, 1 << 16, (SIZE[1], SIZE[0], 3), np.uint16)
    assert_same(*small_and_big(tiff(values, order=order, deflate=True, one=True), monkeypatch))


def test_damage_in_one_compressed_strip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(of_mode("RGB"), "TIFF", compression="tiff_lzw", strip_size=1 << 30)
    data = data[: len(data) // 2] + b"\xff" * 2000 + data[len(data) // 2 + 2000 :]
    for least in (10**8, 1000):
        monkeypatch.setattr(bands, "WHOLE_PIXELS", least)
        with pytest.raises(DecodeError) as caught:
            decoded(data)
        assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("mode", ["I;16", "F", "LAB"])
def test_of_other_tiffs_in_one_strip_libvips_knows_too_little(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 1000)
    data = encode(of_mode(mode), "TIFF", compression="tiff_lzw", strip_size=1 << 30)
    with Image.open(io.BytesIO(data)) as opened:
        assert bands_of(opened, data, (50, 40)) is None
    assert decoded(data).width == SIZE[0]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("format_name", ["WEBP", "AVIF", "HEIF"])
def test_turned_ones(format_name: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"chroma": 444} if format_name == "HEIF" else {}
    assert_same(*small_and_big(oriented(orientation, format_name, size=(96, 64), **options), monkeypatch), most=2)


@pytest.mark.parametrize("name", ["raw.tif", "lzw.tif", "bmp", "webp", "avif", "heic"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_one_is_told(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(bands, "COPIED_PIXELS", 100)
    image = quarters(*SIZE)
    data = {
        "raw.tif": lambda: encode(image, "TIFF", strip_size=3000),
        "lzw.tif": lambda: encode(noise(*SIZE), "TIFF", compression="tiff_lzw", strip_size=3000),
        "bmp": lambda: encode(image, "BMP"),
        "webp": lambda: encode(image, "WEBP", lossless=True),
        "avif": lambda: encode(image, "AVIF"),
        "heic": lambda: encode(image, "HEIF"),
    }[name]()
    with pytest.raises(DecodeError) as caught:
        decoded(data[: int(len(data) * share)])
    assert caught.value.kind == "truncated"


def test_a_damaged_strip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    data = bytearray(encode(noise(*SIZE), "TIFF", compression="tiff_deflate", strip_size=9000))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DecodeError) as caught:
        decoded(bytes(data))
    assert caught.value.kind == "unreadable"


def test_strips_that_nobody_can_take_apart_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 100)
    assert decoded(encode(of_mode("P"), "BMP")).width == SIZE[0]
