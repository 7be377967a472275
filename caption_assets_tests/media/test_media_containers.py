"""A file is cut where its container speaks of more than is there; and only there."""

import struct

import pytest

from caption_assets.media.containers import is_cut
from caption_assets_tests.media.pictures import encode, quarters, valid_files

BOXED = {
    **{name: valid_files()[name] for name in ("webp", "webp_animated", "avif", "heic")},
    "jxl": encode(quarters(), "JXL", use_container=True),
}


@pytest.mark.parametrize("name", BOXED)
def test_it_is_cut_from_its_first_box_to_its_last_byte(name: str) -> None:
    data = BOXED[name]
    assert not is_cut(data)
    assert not is_cut(data + b"what follows")
    assert all(is_cut(data[:length]) for length in range(33, len(data)))


def test_a_last_box_to_the_end_is_measured_by_what_lies_in_it() -> None:
    data = BOXED["heic"]
    place = data.rindex(b"mdat") - 4
    assert place + int.from_bytes(data[place : place + 4], "big") == len(data)
    open_end = data[:place] + bytes(4) + data[place + 4 :]
    assert not is_cut(open_end)
    assert is_cut(open_end[:-1])


def test_sixty_four_bits_of_size_count() -> None:
    data = BOXED["jxl"]
    place = data.index(b"jxlc") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    long = data[:place] + b"\0\0\0\1jxlc" + struct.pack(">Q", size + 8) + data[place + 8 :]
    assert not is_cut(long)
    assert is_cut(long[:-1])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\0\0\0\0ftyp", b"\0\0\0\3ftypavif" + bytes(40)])
def test_what_does_not_say_is_not_cut(data: bytes) -> None:
    assert not is_cut(data)


def test_a_list_of_boxes_without_end_ends() -> None:
    assert not is_cut(b"\0\0\0\x08ftyp" * 300_000)
