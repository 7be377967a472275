"""How many pictures a file holds."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from caption_assets.media.original import Original
from caption_assets.sources.spool import Bytes

_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
_BIG = 43


def count_frames(opened: Image.Image, original: Original) -> int:
    """How many pictures a file holds; of one that breaks off, those that are there."""
    if opened.format == "TIFF":
        return directories(original.view())
    if opened.format != "GIF":
        return max(1, int(getattr(opened, "n_frames", 1)))
    # another reader, for this one's picture would be lost on the way
    with Image.open(original.open(), formats=(opened.format,)) as again:
        try:
            return int(getattr(again, "n_frames", 1))
        except Exception:  # frames behind the first are nobody's loss
            return again.tell() + 1


def directories(data: Bytes) -> int:
    """The directories that follow one another in a TIFF (TIFF 6.0, section 2, and BigTIFF), each counted once.

    Pillow looks at each through all before it, which takes hours for a million. Of a file that breaks off, those that
    are there; at least one.
    """
    order = _ORDERS.get(data[:2], "little")

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    big = number(2, 2) == _BIG
    count_size, entry_size, offset_size = (8, 20, 8) if big else (2, 12, 4)
    seen: set[int] = set()
    place = number(8, 8) if big else number(4, 4)
    while 0 < place <= len(data) - count_size and place not in seen:
        seen.add(place)
        place += count_size + entry_size * number(place, count_size)
        place = number(place, offset_size)
    return max(1, len(seen))
