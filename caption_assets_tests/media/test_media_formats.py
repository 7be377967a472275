"""HEIC and JPEG XL: decoded by plugins, turned once, and refused by what their heads promise."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from caption_assets.media import formats
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets_tests.media import pictures
from caption_assets_tests.media.corpus import jxl_head
from caption_assets_tests.media.pictures import CORNERS, corner_colors, encode, jxl_of, noise, pixels, quarters


def decoded(data: bytes) -> Picture:
    return decode(data, max_megapixels=100, target_pixels=10**6)


def refused(data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decoded(data)
    return caught.value


def boxes(*parts: tuple[bytes, bytes]) -> bytes:
    """A JPEG XL file in boxes."""
    head = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
    return head + b"".join(struct.pack(">I", 8 + len(data)) + kind + data for kind, data in parts)


def heic_of_size(width: int, height: int) -> bytes:
    data = encode(quarters(64, 64), "HEIF")
    place = data.index(b"ispe") + 8
    return data.replace(data[place : place + 8], struct.pack(">II", width, height))


@pytest.mark.parametrize("format_name", ["HEIF", "JXL"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pixels_of_every_mode(format_name: str, mode: str) -> None:
    picture = decoded(encode(quarters().convert(mode), format_name, quality=95))
    assert (picture.format, picture.width, picture.height, picture.frames) == (format_name, 48, 32, 1)
    assert picture.image.mode == "RGB"
    expected = corner_colors(quarters().convert(mode).convert("RGB"))
    for corner, color in corner_colors(picture.image).items():
        assert np.abs(np.subtract(color, expected[corner])).max() <= 16


def test_transparency_becomes_white() -> None:
    for format_name in ("HEIF", "JXL"):
        clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        assert pixels(decoded(encode(clear, format_name, quality=95)).image).min() >= 250


def test_sixteen_bits_of_jpeg_xl_are_scaled() -> None:
    """Its writer calls sixteen bits linear light."""
    values = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    image = decoded(encode(Image.fromarray(values), "JXL", lossless=True)).image
    light = values / 65535
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(pixels(image)[..., 0] - expected)[values > 2000].max() <= 3
    assert pixels(image).max() == 255


@pytest.mark.parametrize("format_name", ["HEIF", "JXL"])
def test_a_profile_is_applied(format_name: str) -> None:
    """A profile with red and green in each other's place; JPEG XL's writer keeps none, so its pixels stay."""
    data = encode(quarters(), format_name, icc_profile=pictures.swapped_profile(), quality=95)
    red, green, *_ = corner_colors(decoded(data).image)[0, 0]
    assert (green > red) == (format_name == "HEIF")


@pytest.mark.parametrize("size", [(48, 32), (1600, 1200)])
def test_a_jpeg_within_jpeg_xl_is_decoded_as_what_it_is(size: tuple[int, int]) -> None:
    """Turned as its EXIF says, scaled, and within the budget kept as it is, without metadata."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    for orientation in (1, 6):
        exif[ExifTags.Base.Orientation] = orientation
        photo = encode(quarters(*size), "JPEG", exif=exif, quality=95)
        expected, picture = decoded(photo), decoded(jxl_of(photo))
        assert picture.format == "JXL"
        assert np.array_equal(picture.pixels, expected.pixels)
        assert (picture.width, picture.height) == (size if orientation == 1 else size[::-1])
        assert picture.metadata.camera_make == expected.metadata.camera_make == "Maker"
        assert picture.jpeg == expected.jpeg
        assert (picture.jpeg is not None) == (orientation == 1 and size == (48, 32))


def test_a_jpeg_within_jpeg_xl_that_is_cut_is_truncated() -> None:
    packed = jxl_of(encode(noise(300, 200), "JPEG", quality=95))
    for part in (0.5, 0.9):
        assert refused(packed[: int(len(packed) * part)]).kind == "truncated"


def test_exif_does_not_turn_what_the_stream_turns_itself() -> None:
    """The standards of both formats: the container's rotation counts, EXIF's is a copy of it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for format_name, told in (("HEIF", exif), ("JXL", exif.tobytes())):
        picture = decoded(encode(quarters(), format_name, exif=told, quality=95))
        assert picture.image.size == (48, 32), format_name
        for corner, color in corner_colors(picture.image).items():
            assert np.abs(np.subtract(color, CORNERS[corner])).max() <= 16


def test_frames_are_counted() -> None:
    many = [Image.new("RGB", (48, 32)), Image.new("RGB", (48, 32), "white")]
    assert decoded(encode(quarters(), "HEIF", save_all=True, append_images=many)).frames == 3
    for format_name in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        assert decoded(pictures.animation(format_name)).frames == 3, format_name
    assert decoded(encode(quarters(), "MPO", save_all=True, append_images=many)).frames == 3
    assert decoded(encode(quarters(), "JPEG")).frames == 1


def test_an_animation_that_breaks_off_counts_what_is_there() -> None:
    data = pictures.animation("GIF")
    assert decoded(data[: data.rindex(b"\x21\xf9") + 4]).frames == 2


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (16, 9), (48, 32), (40, 40), (256, 100), (300, 8), (777, 1300), (9000, 3)]
)
def test_the_size_in_a_jpeg_xl_head_is_the_picture_s(size: tuple[int, int]) -> None:
    data = encode(noise(*size), "JXL", effort=1)
    assert list(formats.promised_sizes(data)) == [size]
    stream = data if data.startswith(b"\xff\x0a") else data[data.index(b"\xff\x0a") :]
    parts = [(b"jxlp", struct.pack(">I", number) + stream[3 * number : 3 * number + 3]) for number in range(9)]
    assert list(formats.promised_sizes(boxes((b"free", b"\xff\x0a"), *parts))) == [size]


@pytest.mark.parametrize(
    "data",
    [
        jxl_head(30_000, 30_000),
        boxes((b"jxlc", jxl_head(30_000, 30_000))),
        boxes((b"jxlp", bytes(4) + jxl_head(2**30, 2**30))),
        heic_of_size(30_000, 30_000),
    ],
    ids=["jxl", "jxl_box", "jxl_parts", "heic"],
)
def test_what_promises_too_much_is_refused_by_its_head(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object, **options: object) -> None:
        raise AssertionError("a reader has seen it")

    monkeypatch.setattr(Image, "open", opened)
    assert refused(data).kind == "too_large"


def test_what_a_crop_hides_counts() -> None:
    """libheif decodes what `ispe` promises, and crops then."""
    data = encode(quarters(64, 48), "HEIF")
    place = data.index(b"ispe") + 8
    assert data[place : place + 8] == struct.pack(">II", 64, 64)
    assert decoded(data).image.size == (64, 48)
    assert refused(data.replace(data[place : place + 8], struct.pack(">II", 60_000, 64_000))).kind == "too_large"


@pytest.mark.parametrize("data", [heic_of_size(32, 32), heic_of_size(128, 64)])
def test_a_heic_head_that_lies_about_its_stream_is_unreadable(data: bytes) -> None:
    assert refused(data).kind in {"unreadable", "too_large"}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\x0a",
        b"\xff\x0a\xfa\x1f\x01",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        boxes(),
        boxes((b"jxlc", b"")),
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x01jxlc\0\0\0\0\0\0\0\0",
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x02jxlc",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    ],
)
def test_a_head_without_a_picture_is_unreadable(data: bytes) -> None:
    error = refused(data)
    assert error.kind in {"unreadable", "truncated"}
    assert "libjxl" not in str(error)


@pytest.mark.parametrize(("module", "name"), [("pillow_heif", "heif"), ("pillow_jxl", "jxl")])
def test_without_its_plugin_a_format_says_what_to_install(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = getattr(formats, f"_has_{name}")
    data = encode(quarters(), name.upper())
    has.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    try:
        error = refused(data)
    finally:
        has.cache_clear()
    assert error.kind == "unsupported"
    assert "pip install" in str(error)


def test_a_plugin_s_format_is_opened_only_where_it_is_told_to_be() -> None:
    """An AVIF that calls itself by the brand both share is AVIF still."""
    avif = encode(quarters(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert decoded(avif).format == "AVIF"
    with Image.open(io.BytesIO(encode(quarters(), "HEIF")), formats=("HEIF",)) as image:
        assert image.info["thumbnails"] == image.info["depth_images"] == []
