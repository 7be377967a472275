"""How a WebP is coded, by its chunks (RFC 9649)."""

from __future__ import annotations

from collections.abc import Iterator

LOSSLESS, ALPHA = b"VP8L", b"ALPH"
_LOSSY, _FRAME = b"VP8 ", b"ANMF"
_CODED = frozenset({_LOSSY, LOSSLESS, _FRAME})
_MOST = 1000
"""Chunks that are looked at."""
_FRAME_HEAD = 16
"""Bytes before a frame's own chunks: its place, its size, how long it is shown, how it is put upon the last one."""
_HAS_ALPHA = 0x10


def chunks(data: bytes) -> frozenset[bytes]:
    """The kinds of chunks up to the first that holds pixels; a colour profile may stand before it."""
    return frozenset(kind for kind, _, _ in _walk(data, 12, len(data)))


def first_frame(data: bytes, size: tuple[int, int]) -> bytes | None:
    """The first frame of an animation as a file of its own; None where it is not all of the picture, or not there.

    Args:
        size: the animation's width and height.
    """
    places = [(place, end) for kind, place, end in _walk(data, 12, len(data)) if kind == _FRAME]
    if not places:
        return None
    place, end = places[0]
    left, top, width, height = (int.from_bytes(data[at : at + 3], "little") for at in range(place, place + 12, 3))
    if (left, top, width + 1, height + 1) != (0, 0, *size):
        return None
    view = memoryview(data)
    parts = {kind: view[start:stop] for kind, start, stop in _walk(data, place + _FRAME_HEAD, end)}
    coded = LOSSLESS if LOSSLESS in parts else _LOSSY
    if coded not in parts:
        return None
    if coded == LOSSLESS or ALPHA not in parts:
        return _file((coded, parts[coded]))
    head = bytes([_HAS_ALPHA, 0, 0, 0]) + data[place + 6 : place + 12]
    return _file((b"VP8X", head), (ALPHA, parts[ALPHA]), (coded, parts[coded]))


def _walk(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk up to the first that holds pixels, and where its content begins and ends."""
    for _ in range(_MOST):
        if place + 8 > end:
            return
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        yield kind, place + 8, min(place + 8 + size, end)
        if kind in _CODED:
            return
        place += 8 + size + size % 2


def _file(*parts: tuple[bytes, bytes | memoryview]) -> bytes:
    """A file of these chunks; what they hold is copied once."""
    pieces = [
        piece
        for kind, content in parts
        for piece in (kind, len(content).to_bytes(4, "little"), content, b"\0" * (len(content) % 2))
    ]
    size = 4 + sum(len(piece) for piece in pieces)
    return b"".join([b"RIFF", size.to_bytes(4, "little"), b"WEBP", *pieces])
