"""Big AVIF and HEIC pictures, made of their luma and chroma: what comes out is what their usual readers give."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from caption_assets.media import bands, coded_planes
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.media.heif_items import Coded, Items, UnknownKindError
from caption_assets.media.isobmff import Extent, extents
from caption_assets_tests.media.pictures import encode, noise

SIZE = (302, 204)


def smooth(size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Colours that change over some pixels, so that readers may differ in how they interpolate chroma by little."""
    image = noise(40, 30).resize(size, Image.Resampling.BICUBIC)
    if mode == "RGBA":
        image.putalpha(image.convert("L").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return image.convert(mode)


def deep_avif() -> bytes:
    values = np.asarray(smooth())[..., ::-1].astype(np.uint16) * 4
    return bytes(cv2.imencode(".avif", values, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 90])[1])


def with_colours(data: bytes, matrix: int, full: bool) -> bytes:
    """A file that says something else of its colours."""
    place = data.index(b"nclx") + 4
    return data[: place + 4] + matrix.to_bytes(2, "big") + bytes([0x80 * full]) + data[place + 7 :]


def with_crop(data: bytes, left: int, top: int, width: int, height: int, *, of: tuple[int, int] = SIZE) -> bytes:
    """A file with an irot whose picture is not turned, but shows a part only."""
    twice = (2 * left + width - of[0], 2 * top + height - of[1])  # the part's middle, from the picture's, in halves
    numbers = (width, 1, height, 1, twice[0], 2, twice[1], 2)
    crop = (40).to_bytes(4, "big") + b"clap" + b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    return with_property(data, crop)


def with_property(data: bytes, box: bytes) -> bytes:
    """A file that has another property, a whole box, in place of its irot."""
    place = data.index(b"irot") - 4
    more = len(box) - 9
    made = bytearray(data[:place] + box + data[place + 9 :])
    for kind in (b"meta", b"iprp", b"ipco"):
        at = made.index(kind) - 4
        made[at : at + 4] = (int.from_bytes(made[at : at + 4], "big") + more).to_bytes(4, "big")
    at = made.index(b"iloc")
    end = at + int.from_bytes(made[at - 4 : at], "big") - 4
    for found in {extent.place for extent in extents(bytes(made), at + 4, end) if not extent.construction}:
        old, new = found.to_bytes(4, "big"), (found + more).to_bytes(4, "big")
        assert made.count(old, at, end) == 1
        made[at:end] = made[at:end].replace(old, new)
    return bytes(made)


def turned(image: Image.Image, format_name: str, orientation: int, **options: Any) -> bytes:
    """A file that says how its picture is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(image, format_name, exif=exif.tobytes() if format_name == "HEIF" else exif, **options)


def cropped(left: int, top: int, width: int, height: int, **options: Any) -> bytes:
    """A HEIC that shows a part of its picture."""
    mode = options.pop("mode", "RGB")
    return with_crop(turned(smooth(mode=mode), "HEIF", 3, chroma=444, **options), left, top, width, height)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Coded]:
    """The pictures that are made of planes."""
    found: list[Coded] = []
    real = coded_planes.bands

    def watched(items: Items, coded: Coded, rows: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        found.append(coded)
        return real(items, coded, rows)

    monkeypatch.setattr(coded_planes, "bands", watched)
    return found


def decoded(data: bytes, target: int = 10**6) -> Picture:
    return decode(data, max_megapixels=10, target_pixels=target)


def both(data: bytes, monkeypatch: pytest.MonkeyPatch, target: int = 10**6) -> tuple[Picture, Picture]:
    usual = decoded(data, target)
    with monkeypatch.context() as patch:
        patch.setattr(bands, "COPIED_PIXELS", 1000)
        return usual, decoded(data, target)


FILES = {
    "avif": lambda: encode(smooth(), "AVIF"),
    "avif of odd size": lambda: encode(smooth((301, 203)), "AVIF"),
    "avif 4:2:2": lambda: encode(smooth(), "AVIF", subsampling="4:2:2"),
    "avif 4:4:4": lambda: encode(smooth(), "AVIF", subsampling="4:4:4"),
    "avif of grey": lambda: encode(smooth(), "AVIF", subsampling="4:0:0"),
    "avif of a few values": lambda: encode(smooth(), "AVIF", range="limited"),
    "avif with alpha": lambda: encode(smooth(mode="RGBA"), "AVIF"),
    "avif of ten bits": deep_avif,
    "avif of BT.709": lambda: with_colours(encode(smooth(), "AVIF"), 1, full=True),
    "avif of BT.2020": lambda: with_colours(encode(smooth(), "AVIF"), 9, full=True),
    "avif that says it has a few values": lambda: with_colours(encode(smooth(), "AVIF"), 6, full=False),
    "heic 4:4:4": lambda: encode(smooth(), "HEIF", chroma=444),
    "heic 4:4:4 with alpha": lambda: encode(smooth(mode="RGBA"), "HEIF", chroma=444),
    "heic 4:4:4 of tiles": lambda: encode(smooth((304, 208)), "HEIF", chroma=444, tile_size=64),
    "heic 4:4:4 of tiles, of which a part shows": lambda: encode(smooth(), "HEIF", chroma=444, tile_size=64),
    "heic 4:4:4 of odd size": lambda: encode(smooth((301, 203)), "HEIF", chroma=444),
    **{
        f"{kind} turned like {orientation}": functools.partial(turned, smooth(), name, orientation, **options)
        for kind, name, options in (
            ("avif", "AVIF", {}),
            ("heic 4:4:4", "HEIF", {"chroma": 444}),
        )
        for orientation in range(2, 9)
    },
    "heic 4:4:4 with alpha, mirrored": lambda: turned(smooth(mode="RGBA"), "HEIF", 5, chroma=444),
    "heic 4:4:4 cropped at the right": lambda: cropped(0, 0, 200, 204),
    "heic 4:4:4 cropped around": lambda: cropped(32, 50, 200, 100),
    "heic 4:4:4 cropped by odd numbers": lambda: cropped(31, 51, 201, 101),
    "heic 4:4:4 of tiles, cropped": lambda: cropped(130, 66, 40, 100, tile_size=64),
    "heic 4:4:4 with alpha, cropped": lambda: cropped(32, 50, 200, 100, mode="RGBA"),
    "heic 4:2:0": lambda: encode(smooth(), "HEIF"),
    "heic 4:2:0 of tiles": lambda: encode(smooth(), "HEIF", tile_size=64),
}
NEAREST = {"heic 4:2:0", "heic 4:2:0 of tiles"}
"""For which libheif takes the nearest chroma, and here it is interpolated."""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rows", [1, 1 << 20])
def test_pixels_are_those_of_the_usual_reader(
    name: str, rows: int, used: list[Coded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caption_assets.media.pixels._BAND_PIXELS", rows)
    monkeypatch.setattr(coded_planes, "ROWS", 32)
    usual, ours = both(FILES[name](), monkeypatch)
    assert len(used) == 1
    differences = np.abs(usual.pixels.astype(int) - ours.pixels)
    assert differences.mean() < (4 if name in NEAREST else 0.8)
    assert differences.max() <= (40 if name in NEAREST else 3)
    assert (usual.width, usual.height, usual.metadata) == (ours.width, ours.height, ours.metadata)


@pytest.mark.parametrize("name", ["avif", "heic 4:2:0 of tiles", "avif with alpha"])
def test_shrunk_ones_are_alike(name: str, used: list[Coded], monkeypatch: pytest.MonkeyPatch) -> None:
    usual, ours = both(FILES[name](), monkeypatch, 4000)
    assert len(used) == 1
    assert np.abs(usual.pixels.astype(int) - ours.pixels).max() <= 3


def test_tiles_are_read_a_line_at_a_time(used: list[Coded], monkeypatch: pytest.MonkeyPatch) -> None:
    open_at_once: list[int] = []
    real = coded_planes._decoded

    def watched(items: Items, coded: Coded, line: int) -> Any:
        frames = real(items, coded, line)
        open_at_once.append(len(frames))
        return frames

    monkeypatch.setattr(coded_planes, "_decoded", watched)
    both(FILES["heic 4:4:4 of tiles"](), monkeypatch)
    assert open_at_once == [5] * 4


@pytest.mark.parametrize("name", ["avif", "heic 4:2:0 of tiles"])
def test_a_picture_bigger_than_its_head_says_is_no_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the coded picture no more is allocated than was promised."""
    data = encode(smooth((1600, 1200)), name[:4].strip().upper().replace("HEIC", "HEIF"))
    real = b"ispe\0\0\0\0" + (1600).to_bytes(4, "big") + (1200).to_bytes(4, "big")
    assert real in data
    small = data.replace(real, b"ispe\0\0\0\0" + (64).to_bytes(4, "big") + (48).to_bytes(4, "big"))
    items = Items(small)
    with pytest.raises(OSError, match=r"damaged|promises|no picture"):
        list(coded_planes.bands(items, items.picture(), 16))
    monkeypatch.setattr(bands, "COPIED_PIXELS", 1000)
    with pytest.raises(DecodeError):
        decoded(small)


def test_what_comes_again_and_again_is_not_put_together() -> None:
    items = Items(FILES["avif"]())
    with pytest.raises(UnknownKindError):
        items.content([Extent(1, 0, 0, 1000)] * 1000)


@pytest.mark.parametrize(
    ("old", "new"), [(b"grid", b"iovl"), (b"dimg", b"cdsc"), (b"hvcC", b"xxxx"), (b"iref", b"free")]
)
def test_other_kinds_are_left_to_the_usual_reader(
    old: bytes, new: bytes, used: list[Coded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "COPIED_PIXELS", 1000)
    data = FILES["heic 4:2:0 of tiles"]()
    assert old in data
    with pytest.raises(DecodeError):
        decoded(data.replace(old, new))
    assert used == []


ORIGINALS = {name: FILES[name]() for name in ("avif with alpha", "heic 4:2:0 of tiles", "heic 4:4:4")}


@pytest.mark.parametrize("name", ORIGINALS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=6))
def test_mutated_files_are_pictures_or_failures(
    name: str, edits: list[tuple[float, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "COPIED_PIXELS", 1000)
    data = bytearray(ORIGINALS[name])
    head = data.index(b"mdat")
    for place, patch in edits:
        start = int(place * 2 * head) if place < 0.5 else int(head + (place - 0.5) * 2 * (len(data) - head))
        data[start : start + len(patch)] = patch
    try:
        picture = decoded(bytes(data))
    except DecodeError:
        return
    assert picture.pixels.shape[2] == 3
