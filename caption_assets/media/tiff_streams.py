"""Strips of a TIFF that are compressed as one stream, decompressed only as far as they are asked for."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator

import pyarrow as pa

from caption_assets.sources.spool import Bytes, Part

DEFLATE = 8
_OLD_DEFLATE, _LZMA, _ZSTANDARD = 32946, 34925, 50000
_PIECE = 1 << 16
_LZMA_BYTES, _ZSTANDARD_BYTES = 80_000_000, 140_000_000
"""What a decompressor may hold to refer to: of LZMA's highest preset, and what Zstandard's takes at most by default."""
STREAMS = {DEFLATE: 0, _OLD_DEFLATE: 0, _LZMA: _LZMA_BYTES, _ZSTANDARD: _ZSTANDARD_BYTES}
"""Compressions whose strips are such streams, and what decompressing takes, in bytes."""


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
    pieces = _decompressed(Part(data, place, place + size), compression)
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
    if compression == _ZSTANDARD:
        stream = pa.CompressedInputStream(pa.PythonFile(strip, "r"), "zstd")
        while piece := stream.read(_PIECE):
            yield piece
    elif compression == _LZMA:
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
