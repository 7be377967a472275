"""How a WebP is coded, by its chunks (RFC 9649)."""

from __future__ import annotations

LOSSLESS, ALPHA = b"VP8L", b"ALPH"
_CODED = frozenset({b"VP8 ", LOSSLESS, b"ANMF"})
_MOST = 1000
"""Chunks that are looked at."""


def chunks(data: bytes) -> frozenset[bytes]:
    """The kinds of chunks up to the first that holds pixels; a colour profile may stand before it."""
    found: set[bytes] = set()
    place = 12
    for _ in range(_MOST):
        if place + 8 > len(data) or found & _CODED:
            break
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        found.add(data[place : place + 4])
        place += 8 + size + size % 2
    return frozenset(found)
