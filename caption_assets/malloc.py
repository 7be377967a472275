"""glibc's malloc, so settled that memory which was freed goes back to the system. Elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import sys

_MAPPED_BYTES = 1 << 24
_KEPT_BYTES = 1 << 26
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_c = ctypes.CDLL(None) if sys.platform == "linux" else None


def settle() -> None:
    """Let malloc take what is big from the system, and give it back, always. To be called before any thread begins.

    Left to itself it raises that limit to 32 MB with the first such piece that is freed, and keeps more and more for
    the threads that freed it: three JPEG XL in turn took 120 MB more than one. The end of any arena but the first is
    kept, so there is one: not even OpenBLAS's thread, which begins as NumPy is imported, has another, that is lent to
    others.
    """
    if mallopt := getattr(_c, "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_ARENA_MAX, 1)


def trim(size: int) -> None:
    """Return what was freed to the system, where `size` bytes are much: freed, or about to be taken."""
    if size > _KEPT_BYTES and (give_back := getattr(_c, "malloc_trim", None)):
        give_back(0)
