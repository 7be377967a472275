"""Big PNGs, decoded a band of rows at a time: as a whole one of a hundred megapixels takes 400 MB.

The file's stream of filtered rows (PNG specification, third edition, sections 7 to 10) is inflated piece by piece. Each
band becomes a small PNG of its own, headed by the last row of the band before it, which the first row's filter refers
to; so it is Pillow that undoes the filters. Of an interlaced file the stream holds up to seven pictures, one behind the
other: it is inflated once to where the last of them begins, and from each beginning on by itself.
"""

from __future__ import annotations

import copy
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture's parts: column and row of the first pixel, columns and rows to the next one."""


class BandedPng:
    """A PNG of eight bits a sample, or a coloured one of sixteen.

    Args:
        data: the file.

    Raises:
        ValueError: it is none of these: of another depth, or not a PNG.
        OSError: it is truncated.
    """

    def __init__(self, data: Bytes) -> None:
        header = data[8:33]
        if data[:8] != SIGNATURE or header[:8] != b"\0\0\0\rIHDR":
            raise ValueError("no PNG")
        self.width, self.height, depth, color, packing, filters, interlaced = struct.unpack(">IIBBBBB", header[8:21])
        if color not in (_CHANNELS if depth == 8 else _DEEP if depth == 16 else ()):
            raise ValueError("not a PNG of eight or sixteen bits")
        if packing or filters or interlaced > 1:
            raise ValueError("a PNG of a kind to come")
        self._data = data
        self._parts = _ADAM7 if interlaced else ((0, 0, 1, 1),)
        self._tail = header[16:20] + b"\0"
        self._order = _DEEP[color] if depth == 16 else None
        self._pixel = _CHANNELS[color] * depth // 8
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
        parts = self._begun()
        for first in range(0, self.height, rows):
            end = min(first + rows, self.height)
            images = [self._next_rows(part, part.before(end) - part.before(first)) for part in parts]
            if len(self._parts) == 1 and images[0]:
                yield images[0]
            else:
                yield _woven(parts, images, (self.width, end - first), first)
        parts[-1].stream.check_rest()

    def _begun(self) -> list[_Part]:
        """The parts of the picture that have pixels, each where it begins."""
        stream, parts, behind = _Inflated(self._data, self._read_chunks()), list[_Part](), 0
        for left, top, across, down in self._parts:
            width = max(0, -(-(self.width - left) // across))
            part = _Part(left, top, across, down, width, 1 + width * self._pixel, stream)
            if width and (rows := part.before(self.height)):
                stream.skip(behind)
                part.stream, behind = stream.copy(), part.row * rows
                parts.append(part)
        return parts

    def _next_rows(self, part: _Part, count: int) -> Image.Image | None:
        """The next rows of a part; None: there are none."""
        if not count:
            return None
        image, part.above = self._decode(part.width, part.above, part.stream.read(count * part.row), count)
        return image

    def _decode(self, width: int, above: bytes, filtered: bytes, count: int) -> tuple[Image.Image, bytes]:
        """Rows of a width as an image, given the raw row above them; and the last of them, raw."""
        stream = b"\0" + above + filtered if above else filtered
        first = int(bool(above))
        header = _chunk(b"IHDR", struct.pack(">II", width, first + count) + self._tail)
        small = SIGNATURE + header + self._palette + _chunk(b"IDAT", zlib.compress(stream, 0)) + _chunk(b"IEND", b"")
        if self._order is not None:
            return _decode_deep(small, first, self._order)
        with Image.open(io.BytesIO(small), formats=("PNG",)) as image:
            image.load()
            last = image.crop((0, image.height - 1, width, image.height)).tobytes()
            return image.crop((0, 1, *image.size)) if first else image.copy(), last

    def _read_chunks(self) -> list[tuple[int, int]]:
        """Begin and end of the parts of the stream of rows; what else matters is kept."""
        found: list[tuple[int, int]] = []
        self._palette = b""
        for kind, start, end in self._chunks():
            if kind in {b"PLTE", b"tRNS"} and not found:
                self._palette += _chunk(kind, self._data[start:end])
            elif kind == b"eXIf":
                self.exif = self._data[start:end]
            elif kind == b"IDAT":
                found.append((start, end))
        return found

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
                _check(zlib.crc32(self._data[place + 4 : end - 4]), self._data, end - 4, kind)
            if kind == b"IEND":
                return
            yield kind, place + 8, end - 4
            place = end


class _Inflated:
    """The stream of filtered rows.

    Args:
        data: the file.
        chunks: begin and end of the payload of each IDAT.
    """

    def __init__(self, data: Bytes, chunks: Sequence[tuple[int, int]]) -> None:
        self._data, self._chunks = data, chunks
        self._inflate = zlib.decompressobj()
        self._number, self._done, self._sum = 0, 0, zlib.crc32(b"IDAT")
        self._rest = b""

    def copy(self) -> _Inflated:
        """One that goes on from the same place."""
        other = copy.copy(self)
        other._inflate = self._inflate.copy()
        return other

    def read(self, size: int) -> bytes:
        """The next so many bytes. Raises OSError: there are fewer, or they are damaged."""
        found = bytearray()
        while len(found) < size:
            piece = self._rest or self._next_piece()
            try:
                inflated = self._inflate.decompress(piece, size - len(found))
            except zlib.error as error:
                raise OSError(f"broken PNG file ({error})") from None
            if not inflated and not piece:
                raise OSError("image file is truncated")
            found += inflated
            self._rest = self._inflate.unconsumed_tail
        return bytes(found)

    def skip(self, size: int) -> None:
        """Go on behind so many bytes. Raises as `read` does."""
        for start in range(0, size, _PIECE):
            self.read(min(_PIECE, size - start))

    def check_rest(self) -> None:
        """Compare the sums of the chunks that are left. Raises OSError: one is damaged."""
        while self._next_piece():
            continue

    def _next_piece(self) -> bytes:
        """What comes next, as it is in the file; empty at the end."""
        while self._number < len(self._chunks):
            start, end = self._chunks[self._number]
            if start + self._done < end:
                piece = self._data[start + self._done : min(start + self._done + _PIECE, end)]
                self._done, self._sum = self._done + len(piece), zlib.crc32(piece, self._sum)
                return piece
            _check(self._sum, self._data, end, b"IDAT")
            self._number, self._done, self._sum = self._number + 1, 0, zlib.crc32(b"IDAT")
        return b""


@dataclass
class _Part:
    """A picture of its own in the stream: every so many pixels of every so many rows."""

    left: int
    top: int
    across: int
    down: int
    width: int
    row: int
    """Bytes of a filtered row."""
    stream: _Inflated
    above: bytes = b""
    """The raw row above the next one."""

    def before(self, row: int) -> int:
        """How many of its rows stand above a row of the picture."""
        return max(0, -(-(row - self.top) // self.down))


def _woven(
    parts: Sequence[_Part], images: Sequence[Image.Image | None], size: tuple[int, int], first: int
) -> Image.Image:
    """The band of a size from row `first` on, of the rows of its parts."""
    some = next(image for image in images if image)
    pixels = np.zeros((size[1], size[0], len(some.getbands())), np.uint8)
    for part, image in zip(parts, images, strict=True):
        if image:
            top = part.top + part.before(first) * part.down - first
            pixels[top :: part.down, part.left :: part.across] = np.asarray(image).reshape(*image.size[::-1], -1)
    band = Image.frombytes(some.mode, size, pixels.tobytes())
    band.info = dict(some.info)
    if some.mode == "P":
        band.putpalette(some.getpalette() or [])
    return band


def _decode_deep(small: bytes, first: int, order: int) -> tuple[Image.Image, bytes]:
    """The same of a file of sixteen bits a sample: the image, from its `first` row on, has the upper eight of them."""
    decoded = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise OSError("broken PNG file (its rows cannot be read)")
    values: NDArray[np.uint16] = np.asarray(cv2.cvtColor(decoded, order), np.uint16)
    return Image.fromarray((values[first:] >> 8).astype(np.uint8)), values[-1].astype(">u2").tobytes()


def _check(found: int, data: Bytes, place: int, kind: bytes) -> None:
    """Compare a chunk's sum with what the file says. Raises OSError."""
    if found != int.from_bytes(data[place : place + 4], "big"):
        raise OSError(f"broken PNG file (bad checksum in {kind.decode()})")


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))
