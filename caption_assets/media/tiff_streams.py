"""Strips of a TIFF that are compressed as one stream, decompressed only as far as they are asked for."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator

import pyarrow as pa

from caption_assets.media import vips
from caption_assets.media.tiff_tags import (
    DEFLATE,
    GREY,
    HEADER,
    LONG,
    LZMA,
    LZW,
    OLD_DEFLATE,
    PACKBITS,
    SHORT,
    ZSTANDARD,
    Entries,
    Tag,
    directory,
    header,
)
from caption_assets.sources.spool import Bytes, Joined, Part

_PIECE = 1 << 16
_LZMA_BYTES, _ZSTANDARD_BYTES, _VIPS_BYTES = 80_000_000, 140_000_000, 68_000_000
"""What a decompressor may hold to refer to: of LZMA's highest preset, what Zstandard's takes at most by default;
and of libvips and libtiff, measured, what they take besides the strip."""
STREAMS = {
    DEFLATE: 0,
    OLD_DEFLATE: 0,
    LZMA: _LZMA_BYTES,
    ZSTANDARD: _ZSTANDARD_BYTES,
    LZW: _VIPS_BYTES,
    PACKBITS: _VIPS_BYTES,
}
"""Compressions whose strips are such streams, and what decompressing takes at least, in bytes."""
BY_LIBTIFF = frozenset({LZW, PACKBITS})
"""Those of them that libtiff decompresses."""


def stream_bytes(compression: int, size: int) -> int:
    """What decompressing a strip of `size` bytes takes, in bytes: libtiff holds what is compressed."""
    return STREAMS[compression] + (size if compression in BY_LIBTIFF else 0)


def stream_rows(data: Bytes, place: int, size: int, compression: int, row: int, rows: list[int]) -> Iterator[bytes]:
    """What a strip holds, so many rows at a time.

    Args:
        data: the file.
        place: where the strip begins, and
        size: how long it is.
        compression: one of STREAMS.
        row: bytes of a row.
        rows: how many of them come together, each time.

    Raises:
        OSError: it is truncated or damaged.
    """
    pending = bytearray()
    strip = Part(data, place, place + size)
    pieces = (
        _by_libtiff(strip, compression, row, rows) if compression in BY_LIBTIFF else _decompressed(strip, compression)
    )
    for count in rows:
        while len(pending) < count * row:
            try:
                piece = next(pieces, None)
            except (zlib.error, lzma.LZMAError, OSError, pa.ArrowInvalid) as error:
                raise OSError(f"a strip is damaged: {error}") from None
            if piece is None:
                raise OSError("image file is truncated")
            pending += piece
        yield bytes(pending[: count * row])
        del pending[: count * row]


def _decompressed(strip: Part, compression: int) -> Iterator[bytes]:
    """A strip's content, no more than a piece at once, however well it was compressed."""
    if compression == ZSTANDARD:
        stream = pa.CompressedInputStream(pa.PythonFile(strip, "r"), "zstd")
        while piece := stream.read(_PIECE):
            yield piece
    elif compression == LZMA:
        yield from _by_lzma(strip)
    else:
        yield from _by_zlib(strip)


def _by_zlib(strip: Part) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    while not inflate.eof and (piece := inflate.unconsumed_tail or strip.read(_PIECE)):
        yield inflate.decompress(piece, _PIECE)


def _by_lzma(strip: Part) -> Iterator[bytes]:
    inflate = lzma.LZMADecompressor(memlimit=_LZMA_BYTES)
    while not inflate.eof:
        piece = strip.read(_PIECE) if inflate.needs_input else b""
        if inflate.needs_input and not piece:
            return
        yield inflate.decompress(piece, _PIECE)


def _by_libtiff(strip: Part, compression: int, row: int, rows: list[int]) -> Iterator[bytes]:
    """By libtiff, which is told that the strip holds grey values of a byte: whatever they are, it gives the bytes."""
    size = strip.seek(0, io.SEEK_END)
    entries: Entries = {
        Tag.WIDTH: (LONG, (row,)),
        Tag.LENGTH: (LONG, (sum(rows),)),
        Tag.BITS: (SHORT, (8,)),
        Tag.COMPRESSION: (SHORT, (compression,)),
        Tag.PHOTOMETRIC: (SHORT, (GREY,)),
        Tag.STRIPS: (LONG, (HEADER,)),
        Tag.SAMPLES: (SHORT, (1,)),
        Tag.STRIP_ROWS: (LONG, (sum(rows),)),
        Tag.STRIP_SIZES: (LONG, (size,)),
    }
    place = HEADER + size
    file = Joined([io.BytesIO(header(place, "<")), strip, io.BytesIO(directory(entries, place, "<"))])
    yield from vips.tiff_rows(file, (row, sum(rows), 1), rows)
