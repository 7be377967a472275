"""The generations of a shard's segment: an immutable file is replaced by the next one, under a name of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake

_CHUNK = 1 << 20
_ORPHAN_SECONDS = 3600.0
"""Between a segment and its index a run needs seconds."""


def place(lake: Lake, shard: Shard, file: Path, index: Sequence[Mapping[str, Any]], *, empty: bool) -> int:
    """Put a segment in place under a generation of its own, and return that; nothing is put where it is `empty`.

    A segment of a run that died before its index, or of another run at the same time, is taken over when it is the
    same, and else left alone: an index must never come to point into a segment it does not describe.
    """
    newest = _indexed(shard, index)
    while True:
        for generation in _generations(lake, shard):
            if generation > newest and not empty and _same(lake, file, layout.segment(shard, generation)):
                return generation
            newest = max(newest, generation)
        if empty or lake.put(file, layout.segment(shard, newest + 1), exclusive=True):
            return newest + 1


def segment_name(shard: Shard, generation: int) -> str:
    """What the index calls a generation."""
    return PurePosixPath(layout.segment(shard, generation)).name


def remove_older(lake: Lake, shard: Shard, generation: int) -> None:
    """Delete what a committed generation replaces, and what runs that died left."""
    for older in _generations(lake, shard):
        if older < generation:
            lake.remove(layout.segment(shard, older))


def tidy(lake: Lake, shard: Shard, index: Sequence[Mapping[str, Any]]) -> None:
    """Delete what runs that died left beside a finished shard: before their end, or between segment and index.

    A segment newer than the index may be that of a run at the same time, whose index comes next: it is left alone for
    an hour. The folder is listed only where the index is empty: a look at every finished shard would else read it each
    time.
    """
    indexed = _indexed(shard, index)
    if indexed < 0:
        replaced = lake.modified(layout.media_index(shard)) or 0.0
        for generation in _generations(lake, shard):
            _remove_if_older(lake, layout.segment(shard, generation), max(replaced, time.time() - _ORPHAN_SECONDS))
        return
    if indexed > 0:
        lake.remove(layout.segment(shard, indexed - 1))
    newest = indexed
    while lake.exists(layout.segment(shard, newest + 1)):
        newest += 1
    for generation in range(newest, indexed, -1):  # so that a death meanwhile leaves no gap to stop at
        _remove_if_older(lake, layout.segment(shard, generation), time.time() - _ORPHAN_SECONDS)


def remove_replaced(lake: Lake, shard: Shard, index: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Delete, of these files, all segments of the shard that a finished index has replaced."""
    indexed = _indexed(shard, index)
    for name in names:
        generation = layout.segment_generation(shard, name)
        if generation is not None and (indexed < 0 or generation < indexed):
            lake.remove(layout.segment(shard, generation))


def _remove_if_older(lake: Lake, path: str, than: float) -> None:
    written = lake.modified(path)
    if written is not None and written <= than:
        lake.remove(path)


def _indexed(shard: Shard, index: Sequence[Mapping[str, Any]]) -> int:
    """The generation that an index points into; -1 where it has no row."""
    generation = layout.segment_generation(shard, index[0]["segment"]) if index else None
    return -1 if generation is None else generation


def _generations(lake: Lake, shard: Shard) -> list[int]:
    """The generations of the segment that are in the lake."""
    folder = layout.media_folder(shard.dataset)
    found = (layout.segment_generation(shard, name) for name in lake.list(folder))
    return sorted(generation for generation in found if generation is not None)


def _same(lake: Lake, file: Path, path: str) -> bool:
    try:
        with lake.open(path) as there, file.open("rb") as here:
            while chunk := here.read(_CHUNK):
                if there.read(len(chunk)) != chunk:
                    return False
            return not there.read(1)
    except FileNotFoundError:
        return False
