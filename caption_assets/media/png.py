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

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caption_assets.sources.spool import Bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
_DEEP = {2: cv2.COLOR_BGR2RGB, 6: cv2.COLOR_BGRA2RGBA}
"""Of these there are bands of sixteen bits a sample, too. Pillow knows grey ones in two bytes a pixel."""
_PIECE = 1 << 16


class BandedPng:
    """A PNG of eight bits a sample, or a coloured one of sixteen, whose rows stand in order.

    Args:
        data: the file.

    Raises:
        ValueError: it is none of these: of another depth, interlaced, or not a PNG.
        OSError: it is truncated.
    """

    def __init__(self, data: Bytes) -> None:
        header = data[8:33]
        if data[:8] != SIGNATURE or header[:8] != b"\0\0\0\rIHDR":
            raise ValueError("no PNG")
        self.width, self.height, depth, color, packing, filters, interlaced = struct.unpack(">IIBBBBB", header[8:21])
        if color not in (_CHANNELS if depth == 8 else _DEEP if depth == 16 else ()) or packing or filters or interlaced:
            raise ValueError("not a PNG of eight or sixteen bits without interlacing")
        self._data = data
        self._tail = header[16:21]
        self._order = _DEEP[color] if depth == 16 else None
        self._row = 1 + self.width * _CHANNELS[color] * depth // 8
        self._palette = b""
        self.exif: bytes | None = None
        """The EXIF that stands behind the pixels, once all bands were read."""
        if self._order is not None and any(kind == b"tRNS" for kind, _, _ in self._chunks()):
            raise ValueError("a colour of sixteen bits that is transparent")

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
                band, above = self._decode(above, bytes(pending[: count * self._row]), count)
                del pending[: count * self._row]
                left -= count
                yield band
        if left:
            raise OSError("image file is truncated")

    def _decode(self, above: bytes, filtered: bytes, count: int) -> tuple[Image.Image, bytes]:
        """Rows as an image, given the raw row above them; and the last of them, raw."""
        stream = b"\0" + above + filtered if above else filtered
        first = int(bool(above))
        header = _chunk(b"IHDR", struct.pack(">II", self.width, first + count) + self._tail)
        small = SIGNATURE + header + self._palette + _chunk(b"IDAT", zlib.compress(stream, 0)) + _chunk(b"IEND", b"")
        if self._order is not None:
            return _decode_deep(small, first, self._order)
        with Image.open(io.BytesIO(small), formats=("PNG",)) as image:
            image.load()
            last = image.crop((0, image.height - 1, self.width, image.height)).tobytes()
            return image.crop((0, 1, *image.size)) if first else image.copy(), last

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


def _decode_deep(small: bytes, first: int, order: int) -> tuple[Image.Image, bytes]:
    """The same of a file of sixteen bits a sample: the image, from its `first` row on, has the upper eight of them."""
    decoded = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise OSError("broken PNG file (its rows cannot be read)")
    values: NDArray[np.uint16] = np.asarray(cv2.cvtColor(decoded, order), np.uint16)
    return Image.fromarray((values[first:] >> 8).astype(np.uint8)), values[-1].astype(">u2").tobytes()


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))
