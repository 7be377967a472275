"""TIFFs of few big strips: of those that are streams no more is decompressed than is asked for."""

import io
import lzma
import struct
import tracemalloc
import zlib

import pyarrow as pa
import pytest
from PIL import Image

from caption_assets.media import bands
from caption_assets.media import tiff as tiff_module
from caption_assets.media.decode import DecodeError
from caption_assets.media.tiff_streams import stream_rows
from caption_assets_tests.media.pictures import encode, noise
from caption_assets_tests.media.test_media_bands import SIZE, assert_same, decoded, of_mode, small_and_big

OURS, LIBTIFFS = ("tiff_deflate", "lzma", "zstd"), ("tiff_lzw", "packbits")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "LA", "LAB", "I;16", "F"])
@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_adobe_deflate", "lzma", "zstd", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("strips", [1, 2])
def test_strips_that_are_streams_are_read_row_by_row(
    mode: str, compression: str, predictor: int, strips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed: list[int] = []
    real = tiff_module.stream_rows
    monkeypatch.setattr(tiff_module, "stream_rows", lambda *given: streamed.append(given[3]) or real(*given))
    predictor = 3 if (mode, predictor) == ("F", 2) else predictor
    rows = -(-SIZE[1] // strips)
    data = encode(of_mode(mode), "TIFF", compression=compression, tiffinfo={278: rows, 317: predictor})
    assert_same(*small_and_big(data, monkeypatch))
    assert len(streamed) == strips * (2 if mode == "F" else 1)  # first its lightest and darkest value


@pytest.mark.parametrize(
    ("compression", "spoil", "kind"),
    [
        *((name, "cut", "truncated") for name in (*OURS, *LIBTIFFS)),
        *((name, "short", "truncated") for name in OURS),
        *((name, "short", "unreadable") for name in LIBTIFFS),
        *((name, "damage", "unreadable") for name in (*OURS, "tiff_lzw")),  # of PackBits any bytes make sense
    ],
)
def test_a_stream_that_ends_or_breaks_is_told(
    compression: str, spoil: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(tiff_module, "_BIG_PIXELS", 1000)
    monkeypatch.setattr(tiff_module, "_BIG_BY_LIBTIFF", 1000)
    data = bytearray(encode(noise(*SIZE), "TIFF", compression=compression, strip_size=1 << 30))
    with Image.open(io.BytesIO(data)) as opened:
        (place,), (size,) = opened.tag_v2[273], opened.tag_v2[279]  # type: ignore[attr-defined]
    if spoil == "cut":  # its list of tags stands before its strip
        data = data[: place + size // 2]
    elif spoil == "short":
        at = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
        data[at : at + 4] = struct.pack("<I", size // 2)
    else:
        data[place : place + 4] = bytes(4)  # Zstandard's have no sums
    with pytest.raises(DecodeError) as caught:
        decoded(bytes(data))
    assert caught.value.kind == kind


@pytest.mark.parametrize("compression", ["tiff_deflate", "lzma", "zstd"])
def test_a_stream_that_swells_is_read_no_further_than_its_rows(compression: str) -> None:
    places = {"tiff_deflate": 8, "lzma": 34925, "zstd": 50000}
    swelling = bytes(100_000_000)
    data = {
        "tiff_deflate": lambda: zlib.compress(swelling),
        "lzma": lambda: lzma.compress(swelling, preset=0),
        "zstd": lambda: pa.compress(swelling, "zstd", asbytes=True),
    }[compression]()
    tracemalloc.start()
    assert list(stream_rows(data, 0, len(data), places[compression], 10, [5, 5])) == [bytes(50)] * 2
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2_000_000
