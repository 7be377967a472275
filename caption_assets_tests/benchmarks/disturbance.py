"""How much of a run other guests of the machine took away: what a ratio of two runs must not be blamed for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

_COUNTERS = Path("/proc/stat")
_STEAL = 8
"""Field of the first line: ticks in which the hypervisor ran something else (proc_stat(5))."""


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
