"""Decoding: upright, sRGB, eight bits, opaque, first frame, and nothing but `DecodeError`."""

import struct
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.media.metadata import Metadata
from caption_assets_tests.media import pictures
from caption_assets_tests.media.corpus import tiled
from caption_assets_tests.media.pictures import CORNERS, corner_colors, encode, noise, oriented, pixels, quarters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken metadata
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")


def decoded(data: bytes, megapixels: float = 10, target: int = 1_000_000) -> Picture:
    picture = decode(data, max_megapixels=megapixels, target_pixels=target)
    assert picture.image.mode == "RGB"
    assert picture.image.info == {}
    return picture


def outcome(data: bytes) -> Picture | DecodeError:
    """What becomes of any bytes."""
    try:
        return decode(data, max_megapixels=1, target_pixels=1_000_000)
    except DecodeError as error:
        return error


def refused(data: bytes, megapixels: float = 10) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(data, max_megapixels=megapixels, target_pixels=1_000_000)
    assert len(str(caught.value)) <= 300
    return caught.value


def assert_quarters(image: Image.Image, tolerance: int = 12) -> None:
    for corner, color in corner_colors(image).items():
        assert np.abs(np.subtract(color, CORNERS[corner])).max() <= tolerance, (corner, color)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=NEEDS_AVIF), "HEIF"])
def test_all_orientations_come_out_upright(orientation: int, format_name: str) -> None:
    options = {"lossless": True} if format_name == "WEBP" else {}
    picture = decoded(oriented(orientation, format_name, **options))
    assert picture.image.size == (picture.width, picture.height) == (48, 32)
    assert_quarters(picture.image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_big_jpeg_is_shrunk_and_keeps_its_original_size(orientation: int) -> None:
    picture = decoded(oriented(orientation, size=(480, 320)), target=5000)
    assert (picture.width, picture.height) == (480, 320)
    assert 4800 <= picture.image.width * picture.image.height <= 5000
    assert picture.image.width > picture.image.height
    assert picture.jpeg is None
    assert_quarters(picture.image)


def test_an_orientation_that_makes_no_sense_is_ignored() -> None:
    for value in (0, 9, 255):
        exif = Image.Exif()
        exif[0x0112] = value
        assert_quarters(decoded(encode(quarters(), "JPEG", exif=exif)).image)
    text = pictures.exif_entry(0x0112, 2, b"6\0\0\0")
    assert_quarters(decoded(pictures.insert(encode(quarters(), "JPEG"), (0xE1, text))).image)


@pytest.mark.parametrize("damage", [b"", b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_exif_says_nothing_about_the_pixels(damage: bytes) -> None:
    picture = decoded(pictures.insert(encode(quarters(), "JPEG"), (0xE1, damage)))
    assert_quarters(picture.image)
    assert picture.metadata == Metadata()


def test_cmyk_and_ycck_jpegs_have_the_right_colors() -> None:
    cmyk = encode(quarters().convert("CMYK"), "JPEG", quality=95)
    assert_quarters(decoded(cmyk).image)
    # a YCCK file differs in its Adobe segment (transform 2), and holds Y, Cb, Cr of the inverted colours
    inverted = pixels(Image.fromarray(np.uint8(255 - pixels(quarters()))).convert("YCbCr"))
    ycck = np.dstack([255 - inverted, np.zeros((32, 48, 1), int)])
    stored = bytearray(encode(Image.frombytes("CMYK", (48, 32), np.uint8(ycck).tobytes()), "JPEG", subsampling="4:4:4"))
    stored[stored.index(b"Adobe") + 11] = 2
    assert_quarters(decoded(bytes(stored)).image)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    image = decoded(encode(Image.fromarray(values), "PNG")).image
    assert np.abs(pixels(image)[..., 0] - values / 257).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark() -> None:
    values = np.full((32, 48), 200, np.uint16)
    assert pixels(decoded(encode(Image.fromarray(values), "PNG")).image).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255]], np.int32), [0, 255]),
        (np.array([[0, 1000, 65535]], np.int32), [0, 4, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 255.0]], np.float32), [0, 255]),
        (np.array([[0.0, np.nan, np.inf, 1.0]], np.float32), [0, 0, 255, 255]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[-5.0, -5.0]], np.float32), [0, 0]),
    ],
)
def test_deep_grey_values_use_the_whole_range(values: np.ndarray, expected: list[int]) -> None:  # type: ignore
    image = decoded(encode(Image.fromarray(values), "TIFF")).image
    assert pixels(image)[0, :, 0].tolist() == expected


def test_transparency_becomes_white() -> None:
    rgba = quarters().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 24, 16))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(1, (0, 0, 2, 4))
    grey = Image.new("LA", (4, 4), (10, 0))
    rgb = Image.new("RGB", (4, 4), (1, 2, 3))
    cases = {
        "RGBA": encode(rgba, "PNG"),
        "P": encode(palette, "PNG", transparency=1),
        "P with alphas": encode(palette, "PNG", transparency=bytes([255, 0])),
        "GIF": encode(palette, "GIF", transparency=1),
        "LA": encode(grey, "PNG"),
        "RGB key": encode(rgb, "PNG", transparency=(1, 2, 3)),
        "L key": encode(Image.new("L", (4, 4), 7), "PNG", transparency=7),
        "1 key": encode(Image.new("1", (4, 4), 0), "PNG", transparency=0),
        "WEBP": encode(rgba, "WEBP", lossless=True, exact=True),
    }
    for name, data in cases.items():
        assert decoded(data).image.getpixel((0, 0)) == (255, 255, 255), name
    assert decoded(cases["P"]).image.getpixel((3, 0)) == (255, 0, 0)
    half = decoded(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")).image
    assert half.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF", pytest.param("AVIF", marks=NEEDS_AVIF)])
def test_of_several_frames_the_first_counts(format_name: str) -> None:
    assert_quarters(decoded(pictures.animation(format_name)).image)


def test_a_tiff_of_many_pictures_is_counted_in_no_time() -> None:
    """Each directory shows the same pixel; the last one leads back to the first."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 4), (277, 1), (278, 1), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = 2 + len(entries) + 4
    ends = [8 + size * (number + 1) for number in range(99_999)] + [8]
    data = (
        b"II*\0"
        + struct.pack("<I", 8)
        + b"".join(struct.pack("<H", 9) + entries + struct.pack("<I", end) for end in ends)
    )
    begin = time.monotonic()
    assert decoded(data).frames == 100_000
    assert decoded(data[: 8 + size * 10 + 1]).frames == 10
    assert time.monotonic() - begin < 20


def test_mpo_gives_its_first_picture() -> None:
    data = encode(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))], quality=95)
    picture = decoded(data)
    assert picture.format == "MPO"
    assert_quarters(picture.image)
    assert picture.jpeg is not None
    assert len(picture.jpeg) < len(data) * 0.8
    assert encode(quarters(480, 320), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))])


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("BMP", {}),
        pytest.param("AVIF", {"quality": 95}, marks=NEEDS_AVIF),
    ],
)
def test_formats(format_name: str, options: dict[str, object]) -> None:
    picture = decoded(encode(quarters(), format_name, **options))
    assert picture.format == format_name
    assert_quarters(picture.image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_mode_that_tiff_can_hold(mode: str) -> None:
    image: Image.Image | None
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(quarters(), srgb, lab, outputMode="LAB")
    else:
        image = quarters().convert("L" if mode in {"LA", "I;16"} else mode).convert(mode)
    assert image is not None
    result = decoded(encode(image, "TIFF")).image
    if mode in {"RGB", "RGBA", "CMYK", "LAB", "YCbCr"}:
        assert_quarters(result, 20)


def test_a_profile_is_applied() -> None:
    for format_name in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encode(quarters(), format_name, icc_profile=pictures.swapped_profile())
        red, green, blue = corner_colors(decoded(data).image)[0, 0]
        assert green > 150 > 100 > max(red, blue), format_name


def test_a_broken_or_unfitting_profile_is_ignored() -> None:
    for profile in (b"garbage", pictures.srgb()[:200], bytes(500)):
        assert_quarters(decoded(encode(quarters(), "PNG", icc_profile=profile)).image)
    grey = encode(quarters().convert("L"), "PNG", icc_profile=pictures.srgb())
    assert np.abs(pixels(decoded(grey).image)[..., 0] - pixels(quarters().convert("L"))).max() <= 1


@pytest.mark.parametrize(("name", "data"), pictures.valid_files().items())
def test_truncated_at_every_tenth(name: str, data: bytes) -> None:
    whole = decoded(data).image
    refusals = 0
    for tenth in range(10):
        result = outcome(data[: len(data) * tenth // 10])
        if isinstance(result, DecodeError):
            refusals += 1
            assert result.kind in {"truncated", "unreadable", "not_an_image"}
        else:  # what is missing is behind the pixels: a trailer, further frames
            assert result.image.tobytes() == whole.tobytes()
    assert refusals >= (2 if name in {"gif", "webp_animated", "mpo"} else 9)


@pytest.mark.parametrize("name", ["jpeg", "png", "bmp"])
def test_a_file_cut_in_its_middle_is_called_truncated(name: str) -> None:
    data = encode(noise(80, 60), name.upper())
    assert refused(data[: len(data) // 2]).kind == "truncated"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not_an_image"),
        (bytes(1000), "not_an_image"),
        (b"<!DOCTYPE html><html><body><svg></svg></body></html>", "not_an_image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by a tool -->\n<svg width="1"/>', "unsupported"),
        (b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x">\n<svg/>', "unsupported"),
        (b'<!DOCTYPE svg PUBLIC "x" "y" [\n<!ENTITY a "b">\n<!ENTITY c "d">\n]>\n<svg/>', "unsupported"),
        (b"<!-- a page of nothing but remarks -->" * 100, "not_an_image"),
        (b"<?xml" + b" " * 2000 + b"<!--" * 500, "not_an_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unreadable"),
        (b"%PDF-1.7\n", "unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"8BPS\0\x01", "unsupported"),
    ],
)
def test_what_is_no_picture_says_what_it_is(data: bytes, kind: str) -> None:
    assert refused(data).kind == kind


def test_a_format_that_runs_other_programs_is_not_opened() -> None:
    assert refused(encode(quarters(), "EPS")).kind == "unsupported"
    assert refused(encode(quarters(), "ICO")).kind == "not_an_image"


@pytest.mark.parametrize(
    "data",
    [
        pictures.png_header(30_000, 30_000),
        pictures.png_header(2**31 - 1, 2**31 - 1),
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 0, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
        + b"," + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0) + b"\x02\x02\x44\x01\x00;",
    ],
    ids=["png", "png_max", "bmp", "gif_frame"],
)  # fmt: skip
def test_a_header_that_promises_too_much_is_refused_without_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        assert refused(data, 100).kind == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_tiff_with_a_giant_tile_is_refused() -> None:
    data = bytearray(encode(quarters(), "TIFF", compression="tiff_deflate"))
    image_file = decoded(bytes(data))
    assert image_file.format == "TIFF"
    assert refused(tiled(60_000)).kind == "too_large"


def test_bombs_in_png_metadata_cost_no_memory() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    for kind, head in ((b"iTXt", b"k\0\1\0\0\0"), (b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0")):
        data = pictures.png_with_chunk(kind, head + bomb)
        tracemalloc.start()
        try:
            assert refused(data).kind == "too_large", kind
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_the_limit_is_inclusive() -> None:
    data = encode(Image.new("L", (100, 100)), "PNG")
    assert decoded(data, megapixels=0.01).width == 100
    error = refused(data, 0.0099)
    assert str(error) == "100 x 100 is more than 0.0099 megapixels"


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    for format_name in ("PNG", "JPEG"):
        picture = decoded(encode(Image.new("RGB", size, (9, 9, 9)), format_name))
        assert picture.image.size == size


def test_messages_have_neither_addresses_nor_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        FileNotFoundError(2, "No such file", "/home/somebody/private/x.jpg"),
        OSError("cannot read /home/somebody/private/x.jpg: bad"),
        ValueError("<_io.BytesIO object at 0x7f0012345678> is closed"),
        RuntimeError("C:\\Users\\somebody\\x.jpg"),
        MemoryError(),
    ):

        def fail(*args: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        message = str(refused(b"x"))
        assert "somebody" not in message
        assert "0x7f" not in message
        assert type(error).__name__ in message


def test_messages_never_name_the_buffer() -> None:
    for name, data in pictures.valid_files().items():
        for cut in range(0, len(data), max(1, len(data) // 20)):
            result = outcome(data[:cut])
            if isinstance(result, DecodeError):
                assert "BytesIO" not in str(result), name
                assert " at 0x" not in str(result), name


def test_decoding_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        decoded(encode(Image.new("1", (10_000, 9_500)), "PNG"), megapixels=100)
