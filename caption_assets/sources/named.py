"""Pictures that somebody else names: by a path below a root, or by a URL of the web.

Who writes lists and messages need not be trusted: what leads out of the root, and what is neither below it nor on the
web, is no picture of the dataset.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.bucket import open_store
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.folder_files import file_etag
from caption_assets.sources.rows import raise_if_bad
from caption_assets.sources.spool import Body
from caption_assets.sources.stores import Store, stored
from caption_assets.sources.web import WebFetcher

_ABSENT = "absent"
_WEB = "web"


class NamedPictures:
    """The pictures below a root, and those of the web.

    Args:
        root: folder or URL below which paths are; none: there are none.
        options: passed to the filesystem of a URL.
        web: what fetches http and https URLs; none: they are no pictures.

    Raises:
        ImportError: the filesystem's package is not installed.
        ValueError: there is no such filesystem, or it refuses the options.
    """

    def __init__(self, root: str | None, options: Mapping[str, Any], web: WebFetcher | None) -> None:
        self._root = root.rstrip("/") if root else None
        self._web = web
        self._fetches = web.ahead if web else Ahead()
        self._store: Store | None = None
        if self._root and "://" in self._root:
            self._store = open_store(self._root, options, self._fetches.at_once)

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._fetches.at_once

    @property
    def manners(self) -> str:
        """Names the settings on which an opt-out depends."""
        return self._web.manners if self._web else ""

    def item(self, path: str, digest: str, columns: Mapping[str, Any], *, pinned: bool = True) -> Item:
        """The item of a name. Raises ValueError, for reasons that a row may tell.

        Args:
            path: what names it.
            digest: stands for what was said of it: another one is another item.
            columns: its source columns.
            pinned: whether a local file counts as it is now; else as it is when it is read.
        """
        if self._web is not None and path.lower().startswith(("http://", "https://")):
            return Item(path, f"{_WEB}.{digest}", 0, None, dict(columns))
        if self._root is None:
            raise ValueError("is no http or https URL, and the dataset has no root")
        path = path.removeprefix(f"{self._root}/")
        target = posixpath.normpath(path)
        if "://" in path:
            raise ValueError("is a URL outside of the root")
        if path.startswith("/") or target == ".." or target.startswith("../") or "\0" in path:
            raise ValueError("leads out of the root")
        uri = f"{self._root}/{target}"
        version, size = ("", 0) if self._store else _local_version(uri)
        return Item(uri, f"{version if pinned else ''}.{digest}", size, None, dict(columns))

    def start(self, uri: str, etag: str) -> Future[bytes] | None:
        """Begin to fetch an item that is on the web or in a store; None for a file. Raises FetchError."""
        raise_if_bad(etag)
        if self._web is not None and etag.startswith(f"{_WEB}."):
            return self._web.start(uri)
        if store := self._store:
            return self._fetches.start(lambda room: stored(store, uri, "", room))
        return None

    def fetch(self, uri: str, etag: str) -> Body:
        """The picture's bytes. Raises FetchError."""
        if started := self.start(uri, etag):
            return started.result()
        version = etag.rpartition(".")[0]
        if version == _ABSENT:
            raise FetchError("gone", "the file was not there when its line was planned; planning again finds it")
        if not self._inside(uri):
            raise FetchError("forbidden", "the file is a link to outside of the root")
        return FolderSource(Path(self._root or "/")).fetch(uri, version or _local_version(uri)[0])

    def _inside(self, path: str) -> bool:
        """Whether a file is below the root where links are followed, too: a list must not be a way to other files."""
        if self._root is None:
            return False
        root = os.path.realpath(self._root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root


class FromNamed:
    """What fetches of a source are whose items `NamedPictures` made. Its scan is the subclass's."""

    _pictures: NamedPictures

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._pictures.ahead

    @property
    def manners(self) -> str:
        """Names the settings on which an opt-out depends."""
        return self._pictures.manners

    def start(self, uri: str, etag: str) -> Future[bytes] | None:
        """Begin to fetch an item that is on the web or in a store; None for a file. Raises FetchError."""
        return self._pictures.start(uri, etag)

    def fetch(self, uri: str, etag: str) -> Body:
        """The picture's bytes. Raises FetchError."""
        return self._pictures.fetch(uri, etag)


def _local_version(path: str) -> tuple[str, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _ABSENT, 0
    return file_etag(status), status.st_size
