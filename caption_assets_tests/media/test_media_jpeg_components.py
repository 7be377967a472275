"""JPEG a component at a time: the same picture as its decoder makes of all at once."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from caption_assets.media import jpeg_dc
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.media.jpeg_components import Components
from caption_assets.media.jpeg_segments import EOI, FRAMES, HUFFMAN, QUANTIZATION, RESTART, SOI, SOS, segment, segments
from caption_assets.media.pixels import whole_factor
from caption_assets_tests.media.pictures import encode, noise, pixels, swapped_profile

SIZES = [(333, 251), (64, 48), (17, 8), (9, 9), (400, 3), (16, 16)]
SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "4:1:1"]


def progressive(width: int = 333, height: int = 251, mode: str = "RGB", **options: Any) -> bytes:
    return encode(noise(width, height).convert(mode), "JPEG", **{"progressive": True, "quality": 90} | options)


def at_once(data: bytes, size: tuple[int, int]) -> Image.Image:
    """By Pillow, which asks its decoder for half, a fourth or an eighth."""
    image = Image.open(io.BytesIO(data))
    image.draft(None, size)
    image.load()
    factor = whole_factor(image.size, size)
    return image.reduce(factor) if factor > 1 else image


def assert_same(data: bytes, size: tuple[int, int], most: int) -> None:
    (mine, _), all_at_once = Components(data).shrunk(size), at_once(data, size)
    assert (mine.mode, mine.size) == (all_at_once.mode, all_at_once.size)
    assert np.abs(pixels(mine) - pixels(all_at_once)).max() <= most


def edited(data: bytes, changed: dict[int, Any]) -> bytes:
    """A JPEG whose segments of some markers are replaced by bytes, as functions of their payloads say."""
    parts = [bytes([0xFF, SOI])]
    for each in segments(data):
        if each.marker == EOI:
            parts.append(bytes([0xFF, EOI]))
            continue
        parts.append(changed[each.marker](each.payload) if each.marker in changed else bytes(each))
        parts.append(data[each.coded] if each.marker == SOS else b"")
    return b"".join(parts)


@pytest.mark.parametrize("restart", [0, 1, 3])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_the_decoder_makes_of_all(size: tuple[int, int], mode: str, subsampling: str, restart: int) -> None:
    data = progressive(*size, mode, subsampling=subsampling, restart_marker_blocks=restart)
    # libjpeg takes half the colours of 4:2:2 from a picture that it shrinks; here they are averaged
    for factor in (1, 2, 3, 8, 20) if subsampling != "4:2:2" else (1,):
        assert_same(data, (max(1, size[0] // factor), max(1, size[1] // factor)), most=5)


def test_colours_of_halved_width_are_averaged() -> None:
    fine = Image.fromarray(np.random.default_rng(1).integers(0, 256, (36, 48, 3), np.uint8))
    data = encode(fine.resize((333, 251)), "JPEG", progressive=True, subsampling="4:2:2")
    for factor in (2, 3, 8):
        size = 333 // factor, 251 // factor
        whole = pixels(Image.open(io.BytesIO(data)).resize(size, Image.Resampling.LANCZOS))
        errors = [
            np.square(pixels(image.resize(size, Image.Resampling.BICUBIC)) - whole).mean()
            for image in (Components(data).shrunk(size)[0], at_once(data, size))
        ]
        assert errors[0] < errors[1]


def test_more_data_than_is_looked_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_dc, "_CHUNK", 100)
    for subsampling in SUBSAMPLINGS:
        assert_same(progressive(subsampling=subsampling, quality=100), (333, 251), most=5)


def test_values_far_apart_need_long_codes() -> None:
    extremes = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (40, 60, 3)).repeat(8, 0).repeat(8, 1)
    data = encode(Image.fromarray(extremes), "JPEG", progressive=True, quality=100, subsampling="4:4:4")
    assert_same(data, (480, 320), most=2)


def test_colours_are_told_apart() -> None:
    """RGB by Adobe's word or by its components' names, YCbCr by JFIF's whatever they are; YCCK by Adobe's."""
    rgb = progressive(keep_rgb=True)
    assert_same(rgb, (333, 251), most=2)
    without = edited(rgb, {0xEE: lambda payload: b""})
    assert_same(without, (333, 251), most=2)
    jfif = segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\0\0")
    assert_same(without[:2] + jfif + without[2:], (333, 251), most=3)
    cmyk = progressive(mode="CMYK")
    for transform in (1, 2):
        told = edited(cmyk, {0xEE: lambda payload, told=transform: segment(0xEE, payload[:11] + bytes([told]))})
        assert_same(told, (333, 251), most=3)
    assert_same(edited(cmyk, {0xEE: lambda payload: b""}), (333, 251), most=2)


def of_three_scans(size: tuple[int, int]) -> bytes:
    """A baseline JPEG of a scan for each component, made of three grey ones."""
    planes = noise(*size).convert("YCbCr").split()
    greys = [encode(plane, "JPEG", quality=90) for plane in planes]
    parts = [bytes([0xFF, SOI])]
    for number, data in enumerate(greys, 1):
        for each in segments(data):
            if each.marker in {QUANTIZATION, HUFFMAN} and number == 1:
                parts.append(bytes(each))
            elif each.marker in FRAMES and number == 1:
                frame = each.payload[:5] + b"\3" + b"".join(bytes([name, 0x11, 0]) for name in (1, 2, 3))
                parts.append(segment(each.marker, frame))
            elif each.marker == SOS:
                parts += [segment(SOS, bytes([1, number]) + each.payload[2:]), data[each.coded]]
    return b"".join([*parts, bytes([0xFF, EOI])])


def test_a_scan_for_each_component() -> None:
    for size in SIZES:
        assert_same(of_three_scans(size), size, most=3)


def decoded(data: bytes, **settings: Any) -> Picture:
    return decode(data, max_megapixels=10, **{"target_pixels": 2000} | settings)


@pytest.fixture
def by_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caption_assets.media.decode.whole_bytes", lambda *_: 10**9)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_decoding_tells_the_same(mode: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = {"icc_profile": swapped_profile()} if mode == "RGB" else {}
    data = progressive(mode=mode, exif=exif, subsampling="4:4:4", **profile)
    whole = decoded(data)
    request.getfixturevalue("by_component")
    monkeypatch.setattr("caption_assets.media.decode.jpeg_pixels", None)  # which decodes all at once
    mine = decoded(data)
    assert np.abs(pixels(whole.image) - pixels(mine.image)).mean() <= 1.5  # of another scale
    assert (mine.width, mine.height, mine.metadata) == (251, 333, whole.metadata)


@pytest.mark.usefixtures("by_component")
def test_what_is_not_shrunk_is_left_to_the_decoder() -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(progressive(), target_pixels=333 * 251)
    assert caught.value.kind == "too_large"


@pytest.mark.usefixtures("by_component")
@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_files(tenth: int) -> None:
    data = progressive(subsampling="4:2:0")
    cut = data[: len(data) * tenth // 10]
    with pytest.raises(DecodeError) as caught:
        decoded(cut)
    assert caught.value.kind == "truncated"
    with pytest.raises(DecodeError) as caught:  # what is there of it would be decoded as a whole
        decoded(cut, allow_truncated=True)
    assert caught.value.kind == "truncated"


def damaged(data: bytes) -> dict[str, bytes]:
    """What a scan of DC may be that makes no sense."""
    first = next(each for each in segments(data) if each.marker == SOS)
    coded = data[first.coded]

    def with_data(other: bytes) -> bytes:
        return data[: first.coded.start] + other + data[first.coded.stop :]

    return {
        "half": with_data(coded[: len(coded) // 2]),
        "nothing": with_data(b""),
        "ones": with_data(b"\xff\0" * len(coded)),
        "restarts": with_data(coded[:40] + b"\xff\xd0" + coded[40:]),
        "no table": edited(data, {HUFFMAN: lambda payload: b"" if payload[0] < 16 else segment(HUFFMAN, payload)}),
        "restart interval": edited(data, {SOS: lambda payload: segment(RESTART, b"\0\7") + segment(SOS, payload)}),
        "far apart": edited(
            with_data(b"\x7f" * len(coded)),
            {HUFFMAN: lambda payload: segment(HUFFMAN, payload[:1] + bytes([2]) + bytes(15) + b"\x0f\x0f")},
        ),
    }


@pytest.mark.parametrize("name", damaged(progressive()))
def test_damage_is_told(name: str) -> None:
    with pytest.raises(OSError, match="a scan is damaged"):
        Components(damaged(progressive())[name]).shrunk((333, 251))


@pytest.mark.usefixtures("by_component")
def test_damage_is_a_failure() -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(damaged(progressive())["half"])
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x08\0\x10\0\x10\1\1\x11\0",
        b"\x0c\0\x10\0\x10\3\1\x11\0\2\x11\0\3\x11\0",
        b"\x08\0\x10\0\x10\3\1\x11\0\1\x11\0\3\x11\0",
        b"\x08\0\x10\0\x10\3\1\x11\0\2\x22\0\3\x11\0",
        b"\x08\0\x10\0\x10\3\1\x01\0\2\x11\0\3\x11\0",
        b"\x08\0\0\0\x10\3\1\x11\0\2\x11\0\3\x11\0",
        b"\x08\0\x10\0\x10\3\1\x11\0\2\x11\0\4\x11\0",
        b"\x08\0\x10\0\x10\3\1\x11\0\2\x11",
        b"",
    ],
)
def test_frames_of_other_kinds_are_left_to_the_decoder(payload: bytes) -> None:
    data = progressive(16, 16, subsampling="4:4:4")
    with pytest.raises(ValueError, match=r"components|sizes|component"):
        Components(edited(data, {0xC2: lambda _: segment(0xC2, payload)}))
    with pytest.raises(ValueError, match="one frame"):
        Components(edited(data, {0xC2: lambda payload: segment(0xC2, payload) * 2}))


def test_scans_of_other_kinds_are_left_to_the_decoder() -> None:
    data = encode(noise(16, 16), "JPEG", subsampling="4:4:4")
    with pytest.raises(ValueError, match="a scan of several"):  # baseline: AC is interleaved, too
        Components(data)
    for payload in (b"", b"\3\1\0\2\0\3\0\0\0", b"\1\1\0\0\0", b"\0\0\0\0", b"\2\1\0\1\0\0\0\1"):
        with pytest.raises(ValueError, match="a scan"):
            Components(edited(progressive(16, 16), {SOS: lambda _, told=payload: segment(SOS, told)}))


@pytest.mark.usefixtures("by_component")
def test_what_components_cannot_is_too_large() -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(encode(noise(333, 251), "JPEG", subsampling="4:4:4", optimize=True))
    assert caught.value.kind == "too_large"


MUTABLE = [
    progressive(97, 61, mode, subsampling=subsampling, restart_marker_blocks=restart)
    for mode, subsampling, restart in itertools.product(("RGB", "CMYK"), ("4:4:4", "4:2:0"), (0, 5))
]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(MUTABLE),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 60),
)
def test_mutated_files(data: bytes, edits: list[tuple[float, bytes]], removed: int) -> None:
    changed = bytearray(data)
    for place, patch in edits:
        start = int(place * len(changed))
        changed[start : start + len(patch)] = patch
    middle = int(edits[0][0] * len(changed)) if edits else 0
    mutated = bytes(changed[:middle] + changed[middle + removed :])
    try:
        components = Components(mutated)
    except (ValueError, OSError):
        return
    if components.working((10, 10)) > 1e8:
        return
    try:
        components.shrunk((20, 20))
    except (OSError, ValueError):
        return
