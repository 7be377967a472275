"""Big PNGs, decoded a band of rows at a time: as a whole one of a hundred megapixels takes 400 MB.

The file's stream of filtered rows (PNG specification, third edition, sections 7 to 10) is inflated piece by piece. Each
band becomes a small PNG of its own, headed by the last row of the band before it, which the first row's filter refers
to; so it is Pillow that undoes the filters.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from caption_assets.sources.spool import Bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type; all of them with eight bits a sample here."""
_PIECE = 1 << 16


class BandedPng:
    """A PNG of eight bits a sample whose rows stand in order.

    Args:
        data: the file.

    Raises:
        ValueError: it is none of these: deeper, flatter, interlaced, or not a PNG.
    """

    def __init__(self, data: Bytes) -> None:
        header = data[8:33]
        if data[:8] != SIGNATURE or header[:8] != b"\0\0\0\rIHDR":
            raise ValueError("no PNG")
        self.width, self.height, depth, color, packing, filters, interlaced = struct.unpack(">IIBBBBB", header[8:21])
        if depth != 8 or color not in _CHANNELS or packing or filters or interlaced:
            raise ValueError("not a PNG of eight bits without interlacing")
        self._data = data
        self._tail = header[16:21]
        self._row = 1 + self.width * _CHANNELS[color]
        self._palette = b""
        self.exif: bytes | None = None
        """The EXIF that stands behind the pixels, once all bands were read."""

    def bands(self, rows: int) -> Iterator[Image.Image]:
        """The picture from top to bottom, `rows` rows at a time.

        Raises:
            OSError: the file is truncated or damaged.
        """
        pending, above, left = bytearray(), b"", self.height
        for piece in self._inflated(rows * self._row):
            pending += piece
            while left and len(pending) >= min(rows, left) * self._row:
                count = min(rows, left)
                band = self._decode(above, bytes(pending[: count * self._row]), count)
                del pending[: count * self._row]
                left -= count
                above = band.crop((0, count - 1, self.width, count)).tobytes()
                yield band
        if left:
            raise OSError("image file is truncated")

    def _decode(self, above: bytes, filtered: bytes, count: int) -> Image.Image:
        """Rows as an image, given the raw row above them."""
        stream = b"\0" + above + filtered if above else filtered
        height = count + bool(above)
        header = _chunk(b"IHDR", struct.pack(">II", self.width, height) + self._tail)
        small = SIGNATURE + header + self._palette + _chunk(b"IDAT", zlib.compress(stream, 0)) + _chunk(b"IEND", b"")
        with Image.open(io.BytesIO(small), formats=("PNG",)) as image:
            image.load()
            return image.crop((0, 1, self.width, height)) if above else image.copy()

    def _inflated(self, most: int) -> Iterator[bytes]:
        """The filtered rows, at most so many bytes at once."""
        inflate, wanted = zlib.decompressobj(), self.height * self._row
        for kind, start, end in self._chunks():
            if kind in {b"PLTE", b"tRNS"}:
                self._palette += _chunk(kind, self._data[start:end])
            elif kind == b"eXIf":
                self.exif = self._data[start:end]
            elif kind == b"IDAT":
                for piece in self._pieces(kind, start, end):
                    rest = piece
                    while rest and wanted > 0:  # what is behind the last row is nobody's
                        out = inflate.decompress(rest, most)
                        rest = inflate.unconsumed_tail
                        wanted -= len(out)
                        yield out

    def _pieces(self, kind: bytes, start: int, end: int) -> Iterator[bytes]:
        """A chunk's payload, which may be as long as the file. Raises OSError: it is damaged."""
        found = zlib.crc32(kind)
        for place in range(start, end, _PIECE):
            piece = self._data[place : min(place + _PIECE, end)]
            found = zlib.crc32(piece, found)
            yield piece
        if found != int.from_bytes(self._data[end : end + 4], "big"):
            raise OSError(f"broken PNG file (bad checksum in {kind.decode()})")

    def _chunks(self) -> Iterator[tuple[bytes, int, int]]:
        """Kind, begin and end of the payload of the chunks up to the last. Raises OSError for one that is cut off."""
        place = len(SIGNATURE)
        while True:
            if place + 12 > len(self._data):
                raise OSError("image file is truncated")
            length, kind = struct.unpack(">I4s", self._data[place : place + 8])
            end = place + 12 + length
            if end > len(self._data):
                raise OSError("image file is truncated")
            if kind == b"PLTE":  # of the others a reader may think what it likes
                for _ in self._pieces(kind, place + 8, end - 4):
                    continue
            if kind == b"IEND":
                return
            yield kind, place + 8, end - 4
            place = end


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))
