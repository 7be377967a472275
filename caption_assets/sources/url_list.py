"""Pictures named by the URLs of a table. An item is a row: its etag stands for the row's content, or for what the row
calls its version, for nothing is asked of a server before the picture is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from caption_assets.sources.base import Item
from caption_assets.sources.rows import Row, bad_item, digest, raise_if_bad
from caption_assets.sources.tables import URL_COLUMN, reader_of
from caption_assets.sources.web import WebFetcher


class UrlListSource:
    """The pictures that a table's URLs lead to.

    Args:
        place: the table's path or URL; its extension names the format.
        web: what fetches.
        column: the one that holds the URLs; the others are source columns.
        version_column: the one that tells a picture from its replacement; none: all of the row does.
        options: passed to the filesystem of a URL.

    Raises:
        ValueError: the extension names no known format.
    """

    def __init__(
        self,
        place: str,
        web: WebFetcher,
        *,
        column: str = URL_COLUMN,
        version_column: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._place, self._web, self._column, self._version = place, web, column, version_column
        self._options = options or {}
        self._rows = reader_of(place)

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._web.ahead.at_once

    @property
    def manners(self) -> str:
        """Names the settings on which an opt-out depends."""
        return self._web.manners

    def scan(self) -> Iterator[Item]:
        """An item a row, in the table's order. Raises OSError where the table cannot be read to its end."""
        for row in self._rows(self._place, self._options):
            url = row.columns.get(self._column)
            error = row.error
            if not error and (not isinstance(url, str) or not url.strip()):
                error = f"the row has no text in {self._column}"
            elif not error and self._version is not None and self._version not in row.columns:
                error = f"the row has no column {self._version}"
            if error:
                yield bad_item(self._place, row, error)
            else:
                columns = {name: value for name, value in row.columns.items() if name != self._column}
                yield Item(str(url).strip(), self._etag(row), 0, None, columns)

    def _etag(self, row: Row) -> str:
        if self._version is None:
            return row.digest
        return digest(json.dumps(row.columns[self._version], ensure_ascii=False).encode("utf-8", "replace"))

    def start(self, uri: str, etag: str) -> Future[bytes]:
        """Begin to fetch a planned item; the future's result is its bytes, or FetchError."""
        raise_if_bad(etag)
        return self._web.start(uri)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The picture's bytes. Raises FetchError."""
        return self.start(uri, etag).result()
