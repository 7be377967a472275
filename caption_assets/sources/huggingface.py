"""Pictures in a column of a Hugging Face dataset: an item is a row, its etag is a digest of the picture's bytes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
from huggingface_hub.constants import HF_HUB_CACHE

from caption_assets.sources.base import CHANGED, FetchError, FieldError, Item
from caption_assets.sources.forward import Forward
from caption_assets.sources.rows import digest
from caption_assets.sources.tables import plain

_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` writes, one or the other."""
_NEAR = 16
"""Parts and rows: what is no farther ahead is reached by reading on, else by beginning there."""
_NO_ROW = "the dataset has no such row any more"


class _Split:
    """One split, and how its rows become items.

    Args:
        name: a dataset of the hub, a copy of one, a folder that `save_to_disk` wrote, or Parquet: a file, or several by
            a glob.
        split: its name; of Parquet and of a saved folder without splits it does not matter.
        image: the column that holds the pictures.
        columns: those that become source columns; none: all but the pictures.
        options: `name` (the configuration), `revision` and whatever else `datasets.load_dataset` takes.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str,
        image: str,
        columns: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._name, self._split, self._image, self._columns = name, split, image, columns
        self._options = options or {}

    def _load(self, *, streaming: bool = False) -> Any:
        """The split with its pictures as they are stored."""
        options = {**self._options, "streaming": streaming}
        if self._name.endswith(".parquet"):
            rows = datasets.load_dataset("parquet", data_files=self._name, split="train", **options)
        elif any(Path(self._name, name).exists() for name in _SAVED):
            found = datasets.load_from_disk(self._name)
            rows = found[self._split] if isinstance(found, datasets.DatasetDict) else found
        else:
            rows = datasets.load_dataset(self._name, split=self._split, **options)
        for name, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        return rows

    def _others(self, rows: Any) -> list[str]:
        """The columns that become source columns. Raises FieldError where one is not there."""
        there = rows.column_names or []
        for field, name in [("image", self._image), *(("columns", name) for name in self._columns)]:
            if name not in there:
                raise FieldError(field, f"{self._name} has no column {name!r}, only {', '.join(there)}")
        pictures = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        return list(self._columns) or [name for name in there if name not in (self._image, *pictures)]

    def _needed(self, others: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([self._image, *others]))

    def _item(self, place: str, row: Mapping[str, Any], others: Sequence[str]) -> Item:
        data = self._bytes(row[self._image])
        columns = {name: plain(row[name]) for name in others}
        return Item(f"{self._name}/{self._split}#{place}", digest(data), len(data), None, columns)

    def _bytes(self, value: Any) -> bytes:
        """A picture: in the row, bare or in a mapping, or in a file beside; empty where there is none."""
        found = value.get("bytes") if isinstance(value, Mapping) else value
        path = value.get("path") if isinstance(value, Mapping) and not found else None
        if isinstance(path, str) and self._has(path):
            try:
                with fsspec.open(path, "rb") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return b""
        return found if isinstance(found, bytes) else b""

    def _has(self, path: str) -> bool:
        """Whether a file belongs to the dataset; rows may name any, also of this machine."""
        place = path.rpartition("::")[2]  # of the archive, where it is in one
        if "://" in place:
            return place.startswith((f"hf://datasets/{self._name}@", f"hf://datasets/{self._name}/"))
        own = [self._name] if Path(self._name).is_absolute() else [HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE)]
        file = os.path.realpath(place)
        return any(os.path.commonpath([root, file]) == root for root in map(os.path.realpath, own))

    def _checked(self, data: bytes, etag: str) -> bytes:
        """A row's picture. Raises FetchError: gone where it is not the planned one."""
        if digest(data) != etag:
            raise FetchError("gone", CHANGED)
        if not data:
            raise FetchError("bad_row", f"the row has no picture in {self._image}")
        return data


class HuggingFaceSource(_Split):
    """The rows of a split that is stored on this machine, or will be when it is opened."""

    _opened: Any = None

    def scan(self) -> Iterator[Item]:
        """An item a row. Raises FileNotFoundError where there is no such dataset, FieldError without the column."""
        rows = self._rows()
        others = self._others(rows)
        for number, row in enumerate(rows.select_columns(self._needed(others))):
            yield self._item(str(number), row, others)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The row's picture. Raises FetchError: gone, also where the row holds another one now."""
        rows, number = self._rows(), int(uri.rpartition("#")[2])
        if number >= len(rows):
            raise FetchError("gone", _NO_ROW)
        return self._checked(self._bytes(rows[number][self._image]), etag)

    def _rows(self) -> Any:
        """The split, opened once, as it is memory-mapped."""
        if self._opened is None:
            self._opened = self._load()
        return self._opened


class HuggingFaceStream(_Split):
    """The rows of a split as they come, a part in memory at a time: a row group of Parquet, a file of other formats.

    A row is named by its part and its number there, so that reading can begin at its part. Rows that are asked for in
    their order are read in one pass.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._opened: Any = None
        self._stream: Forward[tuple[int, int]] = Forward(iter(()), (0, 0))
        self._reading = ExitStack()
        self._lock = threading.Lock()
        weakref.finalize(self, self._reading.close)  # pyarrow's threads must not outlive it

    def scan(self) -> Iterator[Item]:
        """An item a row. Raises FileNotFoundError where there is no such dataset, FieldError without the column."""
        parts = self._parts()
        others = self._others(parts)
        for (part, number), row in _rows_from(parts.select_columns(self._needed(others)), 0, 0):
            yield self._item(f"{part}.{number}", row, others)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The row's picture. Raises FetchError: gone, also where the row holds another one now."""
        part, _, number = uri.rpartition("#")[2].partition(".")
        try:
            with self._lock:
                data = self._read(int(part), int(number))
        except (OSError, pa.ArrowException) as error:
            raise FetchError("unreadable", f"{type(error).__name__} while its part was read") from None
        if data is None:
            raise FetchError("gone", _NO_ROW)
        return self._checked(data, etag)

    def _read(self, part: int, number: int) -> bytes | None:
        position = self._stream.position
        if position is None or part > position[0] + _NEAR or not self._stream.has((part, number)):
            self._open(part, max(0, number - _NEAR))  # another reader may be a few steps behind
        try:
            return self._stream.read((part, number))
        except BaseException:
            self._open(0, 0)  # what has raised will yield nothing more
            raise

    def _open(self, part: int, number: int) -> None:
        if self._opened is None:
            self._opened = self._parts().select_columns([self._image])
        self._reading.close()
        pictures = ((place, self._bytes(row[self._image])) for place, row in _rows_from(self._opened, part, number))
        self._reading.callback(pictures.close)
        self._stream = Forward(pictures, (part, number))

    def _parts(self) -> Any:
        """The split, cut into the smallest parts at which reading can begin."""
        return self._load(streaming=True).reshard()


def _rows_from(parts: Any, part: int, number: int) -> Iterator[tuple[tuple[int, int], Mapping[str, Any]]]:
    """The rows from a place on, each with its place."""
    for each in range(part, parts.num_shards):
        rows = parts.shard(parts.num_shards, each)
        start = number if each == part else 0
        for at, row in enumerate(rows.skip(start) if start else rows, start):
            yield (each, at), row
