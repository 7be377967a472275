"""Whether a file is shorter than its container says: then it is truncated, whatever its decoder calls it."""

from __future__ import annotations

from typing import Literal

from caption_assets.media import jxl, jxl_frames
from caption_assets.media.isobmff import boxes, extents
from caption_assets.sources.spool import Bytes

_KINDS = frozenset(
    b"ftyp meta mdat mini moov moof sidx free skip wide uuid Exif jxlc jxlp jxll jxli jbrd brob jumb".split()
) | {b"JXL ", b"xml "}
"""Boxes that stand in no other."""
_TIFFS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}


def is_cut(data: Bytes) -> bool:
    """Whether something that the container of a WebP, AVIF, HEIC, JPEG XL or TIFF speaks of lies behind the file's end.

    A JPEG XL stream tells it itself. False also where nobody does: a last box "up to the end", of anything else.
    """
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if order := _TIFFS.get(data[:4]):
        return int.from_bytes(data[4:8], order) >= len(data)  # its directory, which many put behind the pixels
    if data[: len(jxl.STREAM)] == jxl.STREAM:
        return jxl_frames.is_cut(data[:])
    if data[4:8] != b"ftyp" and data[: len(jxl.BOX)] != jxl.BOX:
        return False
    for kind, start, end in boxes(data, 0, len(data)):
        if len(kind) == 4 and kind not in _KINDS:
            return False  # what follows is no box
        if end > len(data):
            return True
        if kind == b"jxlc" and end == len(data):
            return jxl_frames.is_cut(data[start:end])
        if kind == b"meta" and _furthest_extent(data, start + 4, end) > len(data):
            return True
    return False


def _furthest_extent(data: Bytes, start: int, end: int) -> int:
    """Where the last of the items' data ends, by the item location box (ISO/IEC 14496-12, 8.11.3); 0: it has none."""
    for kind, place, stop in boxes(data, start, end):
        if kind == b"iloc" and stop <= end:
            found = (each.place + each.length for each in extents(data, place, stop) if each.construction == 0)
            return max(found, default=0)
    return 0
