"""Pictures under a URL: an item is an object, its etag is the store's, or else its size and time of change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import Item, Page, SortedKeys
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, with_columns
from caption_assets.sources.http import HttpStore
from caption_assets.sources.stores import AnyStore, Store, stored


class BucketSource:
    """Objects with a picture's extension under a URL. Names that begin with a dot are names like any other.

    Args:
        url: any that fsspec knows.
        recursive: whether what is below a further '/' counts.
        files: which objects are pictures.
        options: passed to the filesystem.
        fetches: what fetches many objects at once.

    Raises:
        ImportError: the filesystem's package is not installed.
        ValueError: there is no such filesystem, or it refuses the options.
    """

    def __init__(
        self,
        url: str,
        *,
        recursive: bool = True,
        files: FileFilter | None = None,
        options: Mapping[str, Any] | None = None,
        fetches: Ahead | None = None,
    ) -> None:
        self._recursive = recursive
        self._files = files or FileFilter()
        self._fetches = fetches or Ahead()
        self._store = open_store(url, options or {}, self._fetches.at_once)

    def scan(self) -> Iterator[Item]:
        """Objects as they are listed now. Raises OSError where the store cannot be listed."""
        for page in self.pages():
            yield from page.items

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """Objects as they are listed now, from a place on. Raises OSError where the store cannot be listed."""
        yield from self._store.pages(self._files, recursive=self._recursive, after=after, until=until)

    @property
    def keys(self) -> SortedKeys | None:
        """What the store can do where its keys are sorted; without folders there is nothing to sort by."""
        return self._store.sorted_keys(self._files) if self._recursive else None

    def complete(self, items: Sequence[Item]) -> list[Item]:
        """The items with what their sidecars say."""
        return with_columns(items, lambda uri: self._store.head(uri, SIDECAR_LIMIT + 1))

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._fetches.at_once

    def start(self, uri: str, etag: str) -> Future[bytes]:
        """Begin to fetch a planned object; the future's result is its bytes, or FetchError."""
        return self._fetches.start(lambda room: stored(self._store, uri, etag, room))

    def fetch(self, uri: str, etag: str) -> bytes:
        """The object's bytes. Raises FetchError: gone, also when it has changed since it was planned."""
        return self.start(uri, etag).result()


def open_store(url: str, options: Mapping[str, Any], at_once: int) -> Store:
    """The store behind a URL, to be read so many times at once. Raises ImportError, ValueError."""
    protocol = url.partition("://")[0]
    if protocol in ("s3", "s3a"):
        from caption_assets.sources.s3 import S3Store  # optional package

        return S3Store(url, options, at_once)
    return HttpStore(url, options) if protocol in ("http", "https") else AnyStore(url, options)
