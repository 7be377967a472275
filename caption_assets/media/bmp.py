"""Big bitmaps, decoded a band of rows at a time: the rows of an uncompressed BMP stand one behind the other.

Each band becomes a small BMP of its own, with the file's header but for the height; so it is Pillow that reads it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from caption_assets.sources.spool import Bytes

_UNCOMPRESSED = frozenset({0, 3, 6})
"""BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS."""
_LONGEST_HEADER = 1 << 16


class BandedBmp:
    """A BMP without compression (header of 40 bytes or more, as Windows writes it).

    Args:
        data: the file.

    Raises:
        ValueError: it is none of these.
    """

    def __init__(self, data: Bytes) -> None:
        if data[:2] != b"BM" or len(data) < 54:
            raise ValueError("no BMP")
        self._start, header = struct.unpack("<II", data[10:18])
        self.width, height, _, bits, compression = struct.unpack("<iiHHI", data[18:34])
        if (
            header < 40
            or compression not in _UNCOMPRESSED
            or self.width <= 0
            or not 54 <= self._start < _LONGEST_HEADER
        ):
            raise ValueError("not a BMP of plain rows")
        self.height, self._upwards = abs(height), height > 0
        self._row = (self.width * bits + 31) // 32 * 4
        self._data = data

    def bands(self, rows: int) -> Iterator[Image.Image]:
        """The picture from top to bottom, `rows` rows at a time. Raises OSError: the file is truncated."""
        for top in range(0, self.height, rows):
            count = min(rows, self.height - top)
            first = self.height - top - count if self._upwards else top
            yield self._decode(self._start + first * self._row, count)

    def _decode(self, place: int, count: int) -> Image.Image:
        height = struct.pack("<i", count if self._upwards else -count)
        header = self._data[:22] + height + self._data[26 : self._start]
        with Image.open(io.BytesIO(header + self._data[place : place + count * self._row]), formats=("BMP",)) as image:
            image.load()
            return image
