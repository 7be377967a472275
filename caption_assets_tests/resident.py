"""Resident memory of this process, by Linux's /proc: `ru_maxrss` begins with what its parent held."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def most() -> float:
    """The most there was so far, in megabytes."""
    return _megabytes("VmHWM")


def now() -> float:
    """What there is, in megabytes."""
    return _megabytes("VmRSS")


def _megabytes(name: str) -> float:
    return int(STATUS.read_text().partition(f"{name}:")[2].split()[0]) * 1024 / 1e6
