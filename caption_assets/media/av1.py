"""What AV1 tells of a picture before it is decoded (AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5)."""

from __future__ import annotations

_SEQUENCE_HEADER = 1


def may_have_grain(data: bytes) -> bool:
    """Whether a decoder may have to put film grain into a picture, which is another one then.

    Args:
        data: the beginning of what is coded: units, each with its head, among the first the sequence's header.
    """
    place = 0
    while place < len(data):
        head = data[place]
        kind, extended, sized = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        place += 1 + extended
        size, place = _leb128(data, place) if sized else (len(data) - place, place)
        if kind == _SEQUENCE_HEADER:
            bits = int.from_bytes(data[place : place + size], "big")
            ending = bits & -bits  # the unit's last bit; the one before it tells whether grain is described
            return bool(bits & ending << 1)
        place += size
    return False


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """The number that stands at a place, seven bits a byte, the lowest first; and the place behind it."""
    value = 0
    for count, byte in enumerate(data[place : place + 8]):
        value |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            return value, place + count + 1
    return len(data), place
