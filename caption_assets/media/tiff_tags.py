"""A TIFF's tags, and directories of them (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum


class Tag(IntEnum):
    """The tags that say how a picture is stored."""

    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIPS = 273
    SAMPLES = 277
    STRIP_ROWS = 278
    STRIP_SIZES = 279
    PLANAR = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILES = 324
    TILE_SIZES = 325
    EXTRA = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    CHROMA = 530


RAW, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE, LZMA, ZSTANDARD, WEBP = 1, 5, 7, 8, 32773, 32946, 34925, 50000, 50001
"""Kinds of compression."""
GREY, RGB, CMYK, YCBCR = 1, 2, 5, 6
"""Kinds of colours: what PHOTOMETRIC may be."""
SEPARATE = 2
"""PLANAR: each sample's values stand by themselves."""
SHORT, LONG, UNDEFINED = 3, 4, 7
"""Kinds of values: numbers of two bytes, of four, and bytes that only their tag explains."""
Entries = dict[int, tuple[int, Sequence[int] | bytes]]
"""Kind and values of each tag."""
HEADER = 8
"""Bytes that a file begins with."""


def header(place: int, mark: str) -> bytes:
    """What a file begins with.

    Args:
        place: of its first directory.
        mark: the byte order as `struct` has it.
    """
    return (b"II" if mark == "<" else b"MM") + struct.pack(f"{mark}HI", 42, place)


def directory(entries: Entries, place: int, mark: str) -> bytes:
    """A directory that stands at `place`, its longer values behind it.

    Args:
        entries: what it lists.
        place: in the file.
        mark: the byte order as `struct` has it.
    """
    listed, behind = b"", b""
    far = place + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        data = (
            values
            if isinstance(values, bytes)
            else struct.pack(f"{mark}{len(values)}{'I' if kind == LONG else 'H'}", *values)
        )
        if len(data) > 4:
            data, behind = struct.pack(f"{mark}I", far + len(behind)), behind + data + bytes(len(data) % 2)
        listed += struct.pack(f"{mark}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return struct.pack(f"{mark}H", len(entries)) + listed + bytes(4) + behind
