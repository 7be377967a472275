"""Where a JPEG XL stream ends: what its heads say, of whatever an encoder writes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caption_assets.media.containers import is_cut
from caption_assets.media.decode import DecodeError, decode
from caption_assets_tests.media.pictures import encode
from caption_assets_tests.media.test_media_formats import boxes


def slope(mode: str, width: int, height: int) -> Image.Image:
    values = np.add.outer(np.arange(height), np.arange(width)) % 256
    if mode == "F":
        return Image.fromarray((values / 255).astype(np.float32))
    if mode == "I;16":
        return Image.fromarray((values * 200).astype(np.uint16))
    bands = [Image.fromarray(values.astype(np.uint8))] * len(mode)
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"lossless": True}, {"quality": 40}, {"effort": 1}, {"lossless": True, "effort": 1}, {"decoding_speed": 4}],
    ids=str,
)
@pytest.mark.parametrize(
    ("mode", "width", "height"),
    [("RGB", 96, 64), ("RGB", 700, 300), ("RGBA", 300, 200), ("L", 2500, 10), ("LA", 50, 50), ("I;16", 90, 300),
     ("F", 100, 60)],
)  # fmt: skip
def test_a_stream_is_cut_up_to_its_last_byte(mode: str, width: int, height: int, options: dict[str, Any]) -> None:
    data = encode(slope(mode, width, height), "JXL", **options)
    assert not is_cut(data)
    assert not is_cut(data + b"what follows")
    step = max(1, len(data) // 200)
    assert all(is_cut(data[:length]) for length in (*range(60, len(data), step), len(data) - 1))


def test_a_box_to_the_end_is_measured_by_its_stream() -> None:
    stream = encode(slope("RGB", 96, 64), "JXL")
    boxed = boxes((b"jxlc", stream)).replace(struct.pack(">I", 8 + len(stream)) + b"jxlc", bytes(4) + b"jxlc")
    assert not is_cut(boxed)
    assert is_cut(boxed[:-1])


def test_what_is_damaged_but_whole_is_not_truncated() -> None:
    data = bytearray(encode(slope("RGB", 300, 300), "JXL"))
    for place in range(len(data) // 2, len(data) // 2 + 40):
        data[place] ^= 0x5A
    with pytest.raises(DecodeError) as caught:
        decode(bytes(data), max_megapixels=1, target_pixels=1_000_000)
    assert caught.value.kind == "unreadable"
