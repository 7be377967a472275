"""Pictures named by the lines of a JSON Lines file.

A line names a picture by a path below the root, or by a URL of the web. Its item's etag stands for the line and, on
this machine, for the file's size and time: a changed line or a changed file is a new item. A line that names none is
an item that can only fail, so that it is counted, named by its number, and not in the way of the others.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.bucket import Store, open_store, stored
from caption_assets.sources.folder import FolderSource, file_etag
from caption_assets.sources.rows import Row, bad_item, jsonl_rows, raise_if_bad
from caption_assets.sources.web import WebFetcher

_ABSENT = "absent"
_WEB = "web"


class JsonlSource:
    """The pictures that a file's lines name.

    Args:
        place: the file's path or URL.
        root: folder or URL below which the paths are; default: the file's folder.
        columns: keys of a line of which the first that is there names the picture; the others are source columns.
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
        columns: Sequence[str] = ("path", "url", "file_name"),
        options: Mapping[str, Any] | None = None,
        web: WebFetcher | None = None,
    ) -> None:
        self._place = place
        self._web = web
        self._fetches = web.ahead if web else Ahead()
        self._columns = columns
        self._options = options or {}
        self._root = (root or posixpath.dirname(place)).rstrip("/")
        self._store: Store | None = None
        if "://" in self._root:
            self._store = open_store(self._root, self._options, self._fetches.at_once)

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

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._fetches.at_once

    @property
    def manners(self) -> str:
        """Names the settings on which an opt-out depends."""
        return self._web.manners if self._web else ""

    def start(self, uri: str, etag: str) -> Future[bytes] | None:
        """Begin to fetch an item that is on the web or in a store; None for a file. Raises FetchError."""
        raise_if_bad(etag)
        if self._web is not None and etag.startswith(f"{_WEB}."):
            return self._web.start(uri)
        if store := self._store:
            return self._fetches.start(lambda room: stored(store, uri, "", room))
        return None

    def fetch(self, uri: str, etag: str) -> bytes:
        """The picture's bytes. Raises FetchError."""
        if started := self.start(uri, etag):
            return started.result()
        version = etag.rpartition(".")[0]
        if version == _ABSENT:
            raise FetchError("gone", "the file was not there when its line was planned; planning again finds it")
        if not self._inside(uri):
            raise FetchError("forbidden", "the file is a link to outside of the root")
        return FolderSource(Path(self._root)).fetch(uri, version)

    def _item(self, row: Row, name: str) -> Item:
        path = row.columns[name]
        if not isinstance(path, str):
            return bad_item(self._place, row, f"{name} is no text")
        columns = {key: value for key, value in row.columns.items() if key != name}
        if self._web is not None and path.startswith(("http://", "https://")):
            return Item(path, f"{_WEB}.{row.digest}", 0, None, columns)
        path = path.removeprefix(f"{self._root}/")
        target = posixpath.normpath(path)
        if "://" in path:
            return bad_item(self._place, row, f"{name} is a URL outside of the root")
        if path.startswith("/") or target == ".." or target.startswith("../") or "\0" in path:
            return bad_item(self._place, row, f"{name} leads out of the root")
        uri = f"{self._root}/{target}"
        version, size = ("", 0) if self._store else _local_version(uri)
        return Item(uri, f"{version}.{row.digest}", size, None, columns)

    def _inside(self, path: str) -> bool:
        """Whether a file is below the root where links are followed, too: a list must not be a way to other files."""
        root = os.path.realpath(self._root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root


def _local_version(path: str) -> tuple[str, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _ABSENT, 0
    return file_etag(status), status.st_size
