"""Whatever the bytes: a picture or a `DecodeError`, never anything else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caption_assets.config import Media
from caption_assets.lake import tables
from caption_assets.media.decode import DecodeError, decode
from caption_assets.media.metadata import Metadata
from caption_assets.media.normalise import normalise
from caption_assets_tests.media.pictures import valid_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken metadata
FILES = valid_files()
MEDIA = Media(max_pixels=1024)
KINDS = {"not_an_image", "unsupported", "truncated", "unreadable", "too_large"}


def raw(metadata: Metadata) -> list[str]:
    return [text for text in (metadata.exif, metadata.xmp, metadata.iptc) if text]


def survive(data: bytes) -> None:
    try:
        picture = decode(
            data, max_megapixels=2, target_pixels=MEDIA.max_pixels, gps=True, allow_truncated=len(data) % 2 == 0
        )
    except DecodeError as refusal:
        error = refusal
    else:
        assert picture.image.mode == "RGB"
        tables.table([picture.metadata.columns()], tables.MEDIA)
        assert all(json.loads(text) for text in raw(picture.metadata))
        stored = normalise(picture, MEDIA)
        assert 1 <= stored.width * stored.height <= MEDIA.max_pixels
        return
    assert error.kind in KINDS
    assert len(str(error)) <= 300


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=6))
def test_mutated_files(name: str, edits: list[tuple[float, bytes]]) -> None:
    data = bytearray(FILES[name])
    for place, patch in edits:
        start = int(place * len(data))
        data[start : start + len(patch)] = patch
    survive(bytes(data))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), patch=st.binary(max_size=40), removed=st.integers(0, 60), head=st.booleans())
def test_files_with_bytes_taken_out_and_put_in(name: str, place: float, patch: bytes, removed: int, head: bool) -> None:
    data = FILES[name]
    start = int(place * (200 if head else len(data)))  # headers are where readers stumble
    survive(data[:start] + patch + data[start + removed :])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x20\0\0\0WEBP", b"II*\0", b"BM"]),
    st.binary(),
)
def test_signatures_with_anything_behind(head: bytes, tail: bytes) -> None:
    survive(head + tail)
