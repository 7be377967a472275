"""Pictures named by the lines of a JSON Lines file.

A line names a picture by a path below the root, or by a URL of the web. Its item's etag stands for the line and, on
this machine, for the file's size and time: a changed line or a changed file is a new item. A line that names none is
an item that can only fail, so that it is counted, named by its number, and not in the way of the others.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caption_assets.config.datasets import NAMES
from caption_assets.sources.base import Item
from caption_assets.sources.named import FromNamed, NamedPictures
from caption_assets.sources.rows import Row, bad_item, jsonl_rows
from caption_assets.sources.web import WebFetcher


class JsonlSource(FromNamed):
    """The pictures that a file's lines name.

    Args:
        place: the file's path or URL.
        root: folder or URL below which the paths are; default: the file's folder.
        columns: keys of a line of which the first that is there names the picture, by a text or the first of a list of
            texts; the others are source columns.
        options: passed to the filesystem of a URL.
        web: what fetches the http and https URLs that lines name; none: they are bad lines.

    Raises:
        ImportError: the filesystem's package is not installed.
        ValueError: there is no such filesystem, or it refuses the options.
    """

    def __init__(
        self,
        place: str,
        *,
        root: str | None = None,
        columns: Sequence[str] = NAMES,
        options: Mapping[str, Any] | None = None,
        web: WebFetcher | None = None,
    ) -> None:
        self._place = place
        self._columns = columns
        self._options = options or {}
        self._pictures = NamedPictures(root or posixpath.dirname(place), self._options, web)

    def scan(self) -> Iterator[Item]:
        """An item a line, in the file's order. Raises OSError where the file cannot be read to its end."""
        for row in jsonl_rows(self._place, self._options):
            name = next((each for each in self._columns if row.columns.get(each)), None)
            error = row.error
            if not error and name is None:
                error = f"the line has none of {', '.join(self._columns)}"
            if error or name is None:
                yield bad_item(self._place, row, str(error))
            else:
                yield self._item(row, name)

    def _item(self, row: Row, name: str) -> Item:
        value = row.columns[name]
        path = value[0] if isinstance(value, list) else value
        if not isinstance(path, str):
            return bad_item(self._place, row, f"{name} is no text")
        columns = {key: value for key, value in row.columns.items() if key != name}
        try:
            return self._pictures.item(path, row.digest, columns)
        except ValueError as error:
            return bad_item(self._place, row, f"{name} {error}")
