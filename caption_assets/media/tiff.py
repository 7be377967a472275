"""Big TIFFs, decoded a few strips or rows of tiles at a time: as a whole one of a hundred megapixels takes 400 MB.

A strip or a tile is compressed for itself (TIFF 6.0, sections 3 and 15). So some of them, with the tags that say how
they are stored, become a small TIFF of their own, and it is Pillow that decodes it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from caption_assets.media.tiff_streams import DEFLATE, STREAMS, stream_rows
from caption_assets.sources.spool import Bytes

WIDTH, LENGTH, ORIENTATION = 256, 257, 274
BITS, COMPRESSION, PHOTOMETRIC, PLANAR, EXTRA = 258, 259, 262, 284, 338
_SAMPLES = 277
STRIPS, _STRIP_ROWS, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES = 322, 323, 324, 325
_JPEG_TABLES = 347
_FILL_ORDER = 266
_COPIED = (BITS, COMPRESSION, PHOTOMETRIC, _FILL_ORDER, _SAMPLES, PLANAR, 317, EXTRA, 339, 530)
"""Those whose values are SHORTs: how the samples are stored, their predictor, what extra ones mean."""
_RAW, _JPEG = 1, 7
_COMPRESSIONS = frozenset({_RAW, 5, _JPEG, 32773, 50001, *STREAMS})
"""LZW, PackBits and WebP besides; not the old JPEG, whose strips share a file."""
_YCBCR = 6
_SEPARATE = 2
_PIECE = 1 << 20
_BIG_PIXELS = 1_000_000
"""A strip of more is not decoded as a whole, where its compression lets one choose."""
_SHORT, _LONG, _UNDEFINED = 3, 4, 7


class InOnePieceError(ValueError):
    """A TIFF of a single strip, or row of tiles, of a compression that is not known here."""


@dataclass(frozen=True)
class _Piece:
    """Rows that can be decoded for themselves: offset and length of each part, in the order of a TIFF's list."""

    rows: int
    parts: tuple[tuple[int, int], ...]


class BandedTiff:
    """A TIFF whose rows stand in more than one strip or row of tiles, or may be had one after another.

    Args:
        data: the file.
        tags: of its first picture, as Pillow gives them.
        order: the byte order, b"II" or b"MM".

    Raises:
        InOnePieceError: it has one piece only.
        ValueError: it is none of these, or its list of strips makes no sense.
    """

    def __init__(self, data: Bytes, tags: Mapping[int, Any], order: bytes) -> None:
        self.width, self.height = int(tags[WIDTH]), int(tags[LENGTH])
        compression = tags.get(COMPRESSION, _RAW)
        if compression not in _COMPRESSIONS or (tags.get(PHOTOMETRIC) == _YCBCR and compression != _JPEG):
            raise ValueError("strips that depend on each other, or on more tags")
        self._data, self._tags, self._order = data, tags, order
        self._tiled = _TILES in tags
        self._planes = int(tags.get(_SAMPLES, 1)) if tags.get(PLANAR) == _SEPARATE else 1
        self._pieces = self._found(split=compression == _RAW and self._planes == 1 and not self._tiled)
        biggest = self.width * max(piece.rows for piece in self._pieces)
        plain = not self._tiled and self._planes == 1 and tags.get(_FILL_ORDER, 1) == 1
        self._streamed = compression if plain and compression in STREAMS and biggest > _BIG_PIXELS else None
        if len(self._pieces) < 2 and self._streamed is None:
            raise InOnePieceError("all in one piece")
        self.working = STREAMS[self._streamed] if self._streamed else 8 * biggest
        """Bytes that decoding takes besides the bands: for two copies of a piece, or to decompress a stream."""

    def bands(self, rows: int) -> Iterator[Image.Image]:
        """The picture from top to bottom as it is stored, not turned, `rows` rows at a time.

        Raises:
            OSError: the file is truncated or damaged.
        """
        pending: list[Image.Image] = []
        for chunk in self._chunks(rows):
            pending.append(chunk)
            while sum(image.height for image in pending) >= rows:
                yield _taken(pending, rows)
        if pending:
            yield _taken(pending, sum(image.height for image in pending))

    def _found(self, *, split: bool) -> list[_Piece]:
        offsets = _tuple(self._tags[_TILES if self._tiled else STRIPS])
        rows = int(self._tags[_TILE_LENGTH] if self._tiled else self._tags.get(_STRIP_ROWS, self.height))
        rows = min(rows, self.height) if not self._tiled else rows
        across = -(-self.width // int(self._tags[_TILE_WIDTH])) if self._tiled else 1
        if rows < 1 or across < 1 or self.height < 1:
            raise ValueError("no rows")
        down = -(-self.height // rows)
        if len(offsets) < down * across * self._planes:
            raise ValueError("fewer strips than rows")
        if split:
            return self._split(offsets[:down], rows)
        sizes = _tuple(self._tags[_TILE_SIZES if self._tiled else _STRIP_SIZES])
        places = list(zip(offsets, sizes, strict=True))
        return [
            _Piece(
                min(rows, self.height - number * rows),
                tuple(
                    place
                    for plane in range(self._planes)
                    for place in places[(plane * down + number) * across : (plane * down + number + 1) * across]
                ),
            )
            for number in range(down)
        ]

    def _split(self, offsets: tuple[int, ...], rows: int) -> list[_Piece]:
        """Uncompressed strips in pieces of about a megabyte."""
        row = self._row_bytes()
        most = min(rows, max(1, _PIECE // row))
        return [
            _Piece(count, ((offset + start * row, count * row),))
            for number, offset in enumerate(offsets)
            for height in [min(rows, self.height - number * rows)]
            for start in range(0, height, most)
            for count in [min(most, height - start)]
        ]

    def _row_bytes(self) -> int:
        """Of a row that holds all samples of its pixels."""
        bits = _tuple(self._tags.get(BITS, 1))
        return -(-self.width * (sum(bits) if len(bits) > 1 else bits[0] * int(self._tags.get(_SAMPLES, 1))) // 8)

    def _chunks(self, rows: int) -> Iterator[Image.Image]:
        """The pieces, as many alike at once as make up `rows` rows; of streams, so many rows of each."""
        if self._streamed:
            for piece in self._pieces:
                yield from self._stream(piece, self._streamed, rows)
            return
        start = 0
        while start < len(self._pieces):
            end, height = start + 1, self._pieces[start].rows
            while end < len(self._pieces) and height < rows and self._pieces[end - 1].rows == self._pieces[start].rows:
                height += self._pieces[end].rows
                end += 1
            yield self._decode(self._pieces[start:end], height)
            start = end

    def _stream(self, piece: _Piece, compression: int, rows: int) -> Iterator[Image.Image]:
        """A strip, so many rows at a time: of decompressed rows, which a predictor may refer to, but not to others."""
        ((place, size),) = piece.parts
        counts = [min(rows, piece.rows - top) for top in range(0, piece.rows, rows)]
        found = stream_rows(self._data, place, size, compression, self._row_bytes(), counts)
        for count, data in zip(counts, found, strict=True):
            yield self._image([zlib.compress(data, 0)], count, count, DEFLATE)

    def _decode(self, pieces: list[_Piece], height: int) -> Image.Image:
        by_plane = [piece.parts for piece in pieces]
        across = len(by_plane[0]) // self._planes
        parts = [part for plane in range(self._planes) for each in by_plane for part in each[plane * across :][:across]]
        stored = [self._data[offset : offset + size] for offset, size in parts]
        if any(len(data) < size for data, (_, size) in zip(stored, parts)):
            raise OSError("image file is truncated")
        return self._image(stored, pieces[0].rows, height, int(self._tags.get(COMPRESSION, _RAW)))

    def _image(self, stored: list[bytes], rows: int, height: int, compression: int) -> Image.Image:
        data = self._file(stored, rows, height, compression)
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.load()
            return image

    def _file(self, stored: list[bytes], rows: int, height: int, compression: int) -> bytes:
        """A TIFF of these strips or tiles."""
        place, places = 8, []
        for data in stored:
            places.append(place)
            place += len(data) + len(data) % 2
        sizes = [len(data) for data in stored]
        entries: dict[int, tuple[int, Any]] = {
            tag: (_SHORT, _tuple(self._tags[tag])) for tag in _COPIED if tag in self._tags
        }
        entries |= {WIDTH: (_LONG, (self.width,)), LENGTH: (_LONG, (height,)), COMPRESSION: (_SHORT, (compression,))}
        if self._tiled:
            entries |= {tag: (_LONG, (int(self._tags[tag]),)) for tag in (_TILE_WIDTH, _TILE_LENGTH)}
            entries |= {_TILES: (_LONG, places), _TILE_SIZES: (_LONG, sizes)}
        else:
            entries |= {_STRIP_ROWS: (_LONG, (rows,)), STRIPS: (_LONG, places), _STRIP_SIZES: (_LONG, sizes)}
        if tables := self._tags.get(_JPEG_TABLES):
            entries[_JPEG_TABLES] = (_UNDEFINED, bytes(tables))
        mark = "<" if self._order == b"II" else ">"
        padded = (part for data in stored for part in (data, bytes(len(data) % 2)))
        head = self._order + struct.pack(f"{mark}HI", 42, place)
        return b"".join([head, *padded, _directory(entries, place, mark)])


def _directory(entries: Mapping[int, tuple[int, Any]], place: int, mark: str) -> bytes:
    """An image file directory that stands at `place`, its longer values behind it."""
    listed, behind = b"", b""
    far = place + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        data = values if kind == _UNDEFINED else struct.pack(f"{mark}{len(values)}{'HI'[kind == _LONG]}", *values)
        if len(data) > 4:
            data, behind = struct.pack(f"{mark}I", far + len(behind)), behind + data + bytes(len(data) % 2)
        listed += struct.pack(f"{mark}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return struct.pack(f"{mark}H", len(entries)) + listed + bytes(4) + behind


def _taken(pending: list[Image.Image], rows: int) -> Image.Image:
    """The next `rows` rows of the images waiting, and these without them."""
    first = pending[0]
    if len(pending) == 1 and first.height == rows:
        return pending.pop()
    band = Image.new(first.mode, (first.width, rows))
    filled = 0
    while filled < rows:
        image = pending.pop(0)
        count = min(image.height, rows - filled)
        band.paste(image.crop((0, 0, image.width, count)), (0, filled))
        filled += count
        if count < image.height:
            pending.insert(0, image.crop((0, count, image.width, image.height)))
    return band


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in value) if isinstance(value, tuple | list) else (int(value),)
