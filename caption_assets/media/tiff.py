"""Big TIFFs, decoded a few strips or rows of tiles at a time: as a whole one of a hundred megapixels takes 400 MB.

A strip or a tile is compressed for itself (TIFF 6.0, sections 3 and 15). So some of them, with the tags that say how
they are stored, become a small TIFF of their own, and it is Pillow that decodes it.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from caption_assets.media.tiff_streams import BY_LIBTIFF, STREAMS, stream_bytes, stream_rows
from caption_assets.media.tiff_tags import (
    DEFLATE,
    JPEG,
    LONG,
    PACKBITS,
    RAW,
    SEPARATE,
    SHORT,
    UNDEFINED,
    WEBP,
    YCBCR,
    Entries,
    Tag,
    directory,
    header,
)
from caption_assets.sources.spool import Bytes

_COPIED = (
    Tag.BITS,
    Tag.COMPRESSION,
    Tag.PHOTOMETRIC,
    Tag.FILL_ORDER,
    Tag.SAMPLES,
    Tag.PLANAR,
    Tag.PREDICTOR,
    Tag.EXTRA,
    Tag.SAMPLE_FORMAT,
    Tag.CHROMA,
)
"""Those whose values are SHORTs: how the samples are stored, their predictor, what extra ones mean."""
_COMPRESSIONS = frozenset({RAW, JPEG, WEBP, *STREAMS})
"""Not the old JPEG, whose strips share a file."""
_PIECE = 1 << 20
_BIG_PIXELS = 1_000_000
"""A strip of more is not decoded as a whole, where its compression lets one choose."""
_BIG_BY_LIBTIFF = 8_000_000
"""The same where that takes half as long again."""


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
        self.width, self.height = int(tags[Tag.WIDTH]), int(tags[Tag.LENGTH])
        compression = tags.get(Tag.COMPRESSION, RAW)
        if compression not in _COMPRESSIONS or (tags.get(Tag.PHOTOMETRIC) == YCBCR and compression != JPEG):
            raise ValueError("strips that depend on each other, or on more tags")
        self._data, self._tags, self._order = data, tags, order
        self._tiled = Tag.TILES in tags
        self._planes = int(tags.get(Tag.SAMPLES, 1)) if tags.get(Tag.PLANAR) == SEPARATE else 1
        self._pieces = self._found(split=compression == RAW and self._planes == 1 and not self._tiled)
        biggest = self.width * max(piece.rows for piece in self._pieces)
        plain = not self._tiled and self._planes == 1 and tags.get(Tag.FILL_ORDER, 1) == 1
        big = _BIG_BY_LIBTIFF if compression in BY_LIBTIFF else _BIG_PIXELS
        self._streamed = compression if plain and compression in STREAMS and biggest > big else None
        if len(self._pieces) < 2 and self._streamed is None:
            raise InOnePieceError("all in one piece")
        strip = max(size for piece in self._pieces for _, size in piece.parts)
        self.working = stream_bytes(self._streamed, strip) if self._streamed else 8 * biggest
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
        offsets = _tuple(self._tags[Tag.TILES if self._tiled else Tag.STRIPS])
        rows = int(self._tags[Tag.TILE_LENGTH] if self._tiled else self._tags.get(Tag.STRIP_ROWS, self.height))
        rows = min(rows, self.height) if not self._tiled else rows
        across = -(-self.width // int(self._tags[Tag.TILE_WIDTH])) if self._tiled else 1
        if rows < 1 or across < 1 or self.height < 1:
            raise ValueError("no rows")
        down = -(-self.height // rows)
        if len(offsets) < down * across * self._planes:
            raise ValueError("fewer strips than rows")
        if split:
            return self._split(offsets[:down], rows)
        sizes = _tuple(self._tags[Tag.TILE_SIZES if self._tiled else Tag.STRIP_SIZES])
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
        bits = _tuple(self._tags.get(Tag.BITS, 1))
        return -(-self.width * (sum(bits) if len(bits) > 1 else bits[0] * int(self._tags.get(Tag.SAMPLES, 1))) // 8)

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
        return self._image(stored, pieces[0].rows, height, int(self._tags.get(Tag.COMPRESSION, RAW)))

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
        entries: Entries = {tag: (SHORT, _tuple(self._tags[tag])) for tag in _COPIED if tag in self._tags}
        entries |= {
            Tag.WIDTH: (LONG, (self.width,)),
            Tag.LENGTH: (LONG, (height,)),
            Tag.COMPRESSION: (SHORT, (compression,)),
        }
        if self._streamed == PACKBITS:
            entries.pop(Tag.PREDICTOR, None)  # of no account there
        if self._tiled:
            entries |= {tag: (LONG, (int(self._tags[tag]),)) for tag in (Tag.TILE_WIDTH, Tag.TILE_LENGTH)}
            entries |= {Tag.TILES: (LONG, places), Tag.TILE_SIZES: (LONG, sizes)}
        else:
            entries |= {Tag.STRIP_ROWS: (LONG, (rows,)), Tag.STRIPS: (LONG, places), Tag.STRIP_SIZES: (LONG, sizes)}
        if tables := self._tags.get(Tag.JPEG_TABLES):
            entries[Tag.JPEG_TABLES] = (UNDEFINED, bytes(tables))
        mark = "<" if self._order == b"II" else ">"
        padded = (part for data in stored for part in (data, bytes(len(data) % 2)))
        return b"".join([header(place, mark), *padded, directory(entries, place, mark)])


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
