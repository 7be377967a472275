"""What the lake's listings say of every shard, in two hashes: where they are the same, so are the shard's files.

Files get names of their own or are replaced whole, so name, size and time (on a store: tag) identify what is in them.
On a disk a folder's own time changes with every file that comes, goes or is replaced, so folders of captions are not
looked into. A time is only good for this once it is past: what changed a moment ago may change again within the same
tick of the clock, so such a shard is `young`, and its counts are not kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.object_store import is_s3, list_objects
from caption_assets.lake.store import Lake

YOUNG_SECONDS = 10.0
_AT_ONCE = 16
"""Folders of an object store."""

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass
class Place:
    """A folder with something of each shard of a dataset: plans, media, rows of one form, failures of one stage."""

    folder: str
    kind: str
    """`plans`, `media`, `captions` or `failures`."""
    stage: str = ""
    """The perspective; `media`."""
    form: str = ""
    numbers: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """Of the shards, in order."""
    hashes: Hashes = field(default_factory=lambda: np.empty((2, 0), np.uint64))
    changed: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """When it was changed last: seconds since 1970; 0 where nobody tells."""


@dataclass
class Listing:
    """All shards of a dataset."""

    dataset: str
    numbers: Numbers
    hashes: Hashes
    """Of shape (2, n)."""
    young: Mask
    captions: Mapping[tuple[str, str], Mask]
    """By perspective and form: which shards have rows of it, or a folder for them."""
    failures: Mapping[str, Mask]
    """By stage: which shards have a file of failures."""

    def shard(self, at: int) -> Shard:
        """The shard at a place."""
        return Shard(self.dataset, int(self.numbers[at]))

    def add(self, mask: Mask, word: str) -> None:
        """Let a word count as a part of what is listed of some shards."""
        self.hashes[:, mask] += words_hash(word)[:, None]


def list_lake(lake: Lake) -> list[Listing]:
    """Look at everything that there is now, in order of the datasets' names."""
    now = time.time()
    places = _places(lake)
    if lake.local:
        for _, place in places:
            _look(lake, place)
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda each: _list(lake, *each), places))
    datasets: dict[str, list[Place]] = {}
    for dataset, place in places:
        datasets.setdefault(dataset, []).append(place)
    joined = (_joined(dataset, datasets[dataset], now) for dataset in sorted(datasets))
    return [listing for listing in joined if len(listing.numbers)]


def words_hash(word: str) -> npt.NDArray[np.uint64]:
    """128 bits of a hash, as two numbers."""
    return np.frombuffer(hashlib.blake2b(word.encode(), digest_size=16).digest(), "<u8").astype(np.uint64)


def _places(lake: Lake) -> list[tuple[str, Place]]:
    forms = [
        (name, form)
        for name in _under(lake, "captions", "perspective")
        for form in _under(lake, f"captions/perspective={name}", "fingerprint")
    ]
    kinds = [
        ("shards", "plans", "", ""),
        ("media", "media", "media", ""),
        *((f"failures/stage={stage}", "failures", stage, "") for stage in _under(lake, "failures", "stage")),
        *((layout.fingerprint_folder(name, form), "captions", name, form) for name, form in forms),
    ]
    return [
        (dataset, Place(f"{folder}/dataset={dataset}", kind, stage, form))
        for folder, kind, stage, form in kinds
        for dataset in _under(lake, folder, "dataset")
        if dataset != "_"
    ]


def _under(lake: Lake, folder: str, key: str) -> list[str]:
    return [name.removeprefix(f"{key}=") for name in lake.list(folder) if name.startswith(f"{key}=")]


def _look(lake: Lake, place: Place) -> None:
    """A folder on a disk."""
    dataset = place.folder.rpartition("dataset=")[2]
    rows = place.kind == "captions"
    before = len(f"shard={dataset}-" if rows else f"{dataset}-")
    after = 0 if rows else len(".parquet")
    head, tail = ("shard=", "") if rows else ("", ".parquet")
    numbers, times, nodes, sizes = array("q"), array("q"), array("q"), array("q")
    try:
        handle = os.open(lake.path(place.folder), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                name = entry.name
                digits = name[before : len(name) - after]
                if not (name.endswith(tail) and digits.isdecimal() and name == f"{head}{dataset}-{digits}{tail}"):
                    continue
                try:
                    told = entry.stat()
                except FileNotFoundError:  # it is going; the next look sees what came of it
                    continue
                if stat.S_ISDIR(told.st_mode) is not rows:
                    continue
                numbers.append(int(digits))
                times.append(told.st_mtime_ns)
                nodes.append(told.st_ino & (2**63 - 1))
                sizes.append(told.st_size)
    finally:
        os.close(handle)
    columns = [np.frombuffer(each, np.int64) if len(each) else np.empty(0, np.int64) for each in (times, nodes, sizes)]
    place.numbers = np.array(numbers, np.int64)
    place.hashes = _mixed(place.folder, columns)
    place.changed = columns[0] / 1e9


def _list(lake: Lake, dataset: str, place: Place) -> None:
    """A folder of an object store, a page at a time."""
    found: dict[int, list[Any]] = {}
    base = lake.path(place.folder).rstrip("/") + "/"
    for name, told in _objects(lake, place.folder):
        relative = name.removeprefix(base)
        key = relative.partition("/")[0].removeprefix("shard=") if place.kind == "captions" else relative
        number = _number(dataset, key.removesuffix(".parquet"))
        if number is None or not name.endswith(".parquet"):
            continue
        changed, word = _told(told)
        hashes, latest = found.get(number, (np.zeros(2, np.uint64), 0.0))
        found[number] = [hashes + words_hash(f"{place.folder} {relative} {word}"), max(latest, changed)]
    place.numbers = np.array([*found], np.int64)
    if found:
        place.hashes = np.stack([hashes for hashes, _ in found.values()], axis=1)
        place.changed = np.array([changed for _, changed in found.values()])


def _objects(lake: Lake, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_s3(lake.fs):
        yield from list_objects(lake.fs, lake.path(folder))
        return
    lake.fs.invalidate_cache(lake.path(folder))
    yield from lake.fs.find(lake.path(folder), detail=True).items()


_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_TAGS = ("ETag", "etag", "generation", "md5Hash", *_TIMES)


def _told(told: Mapping[str, Any]) -> tuple[float, str]:
    """When an object was changed, and what tells it from others of its name."""
    changed = next((told[name] for name in _TIMES if told.get(name)), None)
    seconds = changed.timestamp() if isinstance(changed, datetime) else 0.0
    return seconds, " ".join(str(told[name]) for name in ("size", *_TAGS) if told.get(name) is not None)


def _number(dataset: str, key: str) -> int | None:
    try:
        shard = Shard.parse(key)
    except ValueError:
        return None
    return shard.number if shard.dataset == dataset else None


def _mixed(word: str, columns: Sequence[Numbers]) -> Hashes:
    """A hash of two times 64 bits of the numbers in each row of columns, and a word (splitmix64's finaliser)."""
    first, second = words_hash(word)
    lanes = []
    with np.errstate(over="ignore"):
        for seed in (first, second):
            mixed = np.full(len(columns[0]), seed, np.uint64)
            for column in columns:
                mixed = (mixed ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
                mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                mixed = mixed ^ (mixed >> np.uint64(31))
            lanes.append(mixed)
    return np.stack(lanes)


def _joined(dataset: str, places: Sequence[Place], now: float) -> Listing:
    numbers = np.unique(np.concatenate([place.numbers for place in places]))
    hashes = np.zeros((2, len(numbers)), np.uint64)
    changed = np.zeros(len(numbers))
    captions: dict[tuple[str, str], Mask] = {}
    failures: dict[str, Mask] = {}
    for place in places:
        at = np.searchsorted(numbers, place.numbers)
        hashes[:, at] += place.hashes
        changed[at] = np.maximum(changed[at], place.changed)
        mask = np.zeros(len(numbers), np.bool_)
        mask[at] = True
        if place.kind == "captions":
            captions[place.stage, place.form] = mask
        elif place.kind == "failures":
            failures[place.stage] = mask
    return Listing(dataset, numbers, hashes, changed > now - YOUNG_SECONDS, captions, failures)
