"""How much of a run other guests of the machine took away: what a ratio of two runs must not be blamed for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, TypeVar

_COUNTERS = Path("/proc/stat")
_STEAL = 8
"""Field of the first line: ticks in which the hypervisor ran something else (proc_stat(5))."""

_DISTURBED = 0.02
"""Of the cores' time, given to others in a turn: from then on it says more about them."""
_TRIES = 3
"""Turns made at most, to the turns wanted."""


class Turn(Protocol):
    """Runs that are compared with each other."""

    @property
    def disturbance(self) -> float:
        """The largest share of the cores' time that others had in one of the runs."""
        ...


T = TypeVar("T", bound=Turn)


@dataclass(frozen=True)
class Turns(Generic[T]):
    """All turns that were made, and those that count: the calm ones, or all where these are too few."""

    made: Sequence[T]
    kept: Sequence[T]
    told: str
    """What became of the others, in words; empty where there are none."""


def calm_turns(turn: Callable[[], T], wanted: int) -> Turns[T]:
    """Take turns until `wanted` of them were calm, or thrice as many were made."""
    made: list[T] = []
    calm: list[T] = []
    while len(calm) < wanted and len(made) < _TRIES * wanted:
        made.append(turn())
        if made[-1].disturbance <= _DISTURBED:
            calm.append(made[-1])
    disturbed, enough = len(made) - len(calm), len(calm) >= wanted
    told = f"{disturbed} disturbed ({'left out' if enough else 'too many, so they count'})" if disturbed else ""
    return Turns(made, calm if enough else made, told)


class Disturbance:
    """Measures while it is entered.

    `share` is the part of all cores' time that the hypervisor gave to others; 0 where the system does not count it.
    """

    share = 0.0

    def __enter__(self) -> Disturbance:
        """Begin."""
        self._stolen, self._started = _stolen_seconds(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        passed = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        self.share = (_stolen_seconds() - self._stolen) / passed


def _stolen_seconds() -> float:
    """Of all cores together, since the system began."""
    if not _COUNTERS.exists():
        return 0.0
    fields = _COUNTERS.read_text().split("\n", 1)[0].split()
    return int(fields[_STEAL]) / os.sysconf("SC_CLK_TCK") if len(fields) > _STEAL else 0.0
