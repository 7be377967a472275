"""Pictures named by the URLs of a table. An item is a row: its etag stands for the row's content, for nothing is asked
of a server before the picture is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from caption_assets.sources.base import Item
from caption_assets.sources.rows import bad_item, raise_if_bad
from caption_assets.sources.tables import URL_COLUMN, reader_of
from caption_assets.sources.web import WebFetcher


class UrlListSource:
    """The pictures that a table's URLs lead to.

    Args:
        place: the table's path or URL; its extension names the format.
        web: what fetches.
        column: the one that holds the URLs; the others are source columns.
        options: passed to the filesystem of a URL.

    Raises:
        ValueError: the extension names no known format.
    """

    def __init__(
        self, place: str, web: WebFetcher, *, column: str = URL_COLUMN, options: Mapping[str, Any] | None = None
    ) -> None:
        self._place, self._web, self._column = place, web, column
        self._options = options or {}
        self._rows = reader_of(place)

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._web.ahead

    def scan(self) -> Iterator[Item]:
        """An item a row, in the table's order. Raises OSError where the table cannot be read to its end."""
        for row in self._rows(self._place, self._options):
            url = row.columns.get(self._column)
            error = row.error
            if not error and (not isinstance(url, str) or not url.strip()):
                error = f"the row has no text in {self._column}"
            if error:
                yield bad_item(self._place, row, error)
            else:
                columns = {name: value for name, value in row.columns.items() if name != self._column}
                yield Item(str(url).strip(), row.digest, 0, None, columns)

    def start(self, uri: str, etag: str) -> Future[bytes]:
        """Begin to fetch a planned item; the future's result is its bytes, or FetchError."""
        raise_if_bad(etag)
        return self._web.start(uri)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The picture's bytes. Raises FetchError."""
        return self.start(uri, etag).result()
