"""Cycles among inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def find_cycle(inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names along one cycle, each reading the next, the first again at the end; empty if there is none."""
    graph = {name: sorted(inputs[name]) for name in sorted(inputs)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists what is read first
    return []
