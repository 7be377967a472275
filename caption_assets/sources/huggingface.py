"""Pictures in a column of a Hugging Face dataset: an item is a row, its etag is a digest of the picture's bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.bucket import CHANGED
from caption_assets.sources.rows import digest
from caption_assets.sources.tables import plain


class HuggingFaceSource:
    """The rows of one split.

    Args:
        name: a dataset of the hub, a folder that `save_to_disk` wrote, or a Parquet file.
        split: its name; of a Parquet file and of a folder without splits it does not matter.
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
        self._opened: datasets.Dataset | None = None

    def scan(self) -> Iterator[Item]:
        """An item a row. Raises FileNotFoundError where there is no such dataset, ValueError without the column."""
        rows = self._rows()
        if self._image not in rows.column_names:
            raise ValueError(f"{self._name} has no column {self._image!r}, only {', '.join(rows.column_names)}")
        pictures = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        others = list(self._columns) or [name for name in rows.column_names if name not in (self._image, *pictures)]
        rows = rows.select_columns(list(dict.fromkeys([self._image, *others])))
        for number, row in enumerate(rows):
            columns = {name: plain(row[name]) for name in others}
            data = _bytes(row[self._image])
            yield Item(f"{self._name}/{self._split}#{number}", digest(data or b""), len(data or b""), None, columns)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The row's picture. Raises FetchError: gone, also where the row holds another one now."""
        rows, number = self._rows(), int(uri.rpartition("#")[2])
        if number >= len(rows):
            raise FetchError("gone", "the dataset has no such row any more")
        data = _bytes(rows[number][self._image])
        if digest(data or b"") != etag:
            raise FetchError("gone", CHANGED)
        if data is None:
            raise FetchError("bad_row", f"the row has no picture in {self._image}")
        return data

    def _rows(self) -> datasets.Dataset:
        """The split, with its pictures as they are stored; opened once, as it is memory-mapped."""
        if self._opened is None:
            rows = self._load()
            for name, kind in rows.features.items():
                if isinstance(kind, datasets.Image):
                    rows = rows.cast_column(name, datasets.Image(decode=False))
            self._opened = rows
        return self._opened

    def _load(self) -> datasets.Dataset:
        path = Path(self._name)
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=self._name, split="train", **self._options)
        if path.is_absolute():
            found = datasets.load_from_disk(self._name)
            return found[self._split] if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(self._name, split=self._split, **self._options)


def _bytes(value: Any) -> bytes | None:
    """A picture as it is stored: its bytes, in a mapping or bare."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    return found if isinstance(found, bytes) else None
