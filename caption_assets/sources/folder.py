"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress, islice
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from caption_assets.sources.base import FetchError, Item, Page, SortedKeys
from caption_assets.sources.files import SIDECAR_EXTENSIONS, SIDECAR_LIMIT, FileFilter, with_columns

_log = logging.getLogger(__name__)
_ESCAPED = "file://"
_PAGE = 1000
_LOOKED_AT = 10_000
"""Entries of a folder that are looked at together."""
_BEHIND = "\U0010ffff"
"""A name behind all others."""
_CHANGED = "the file has changed since it was planned; the new one is an item of its own"


class FolderSource:
    """Files with a picture's extension under a folder.

    A URI is the absolute path; where that is no UTF-8 text, a percent-encoded `file://` URL of its bytes.

    Args:
        folder: absolute path.
        recursive: whether sub-folders count; hidden files and folders, and links to folders, never do.
        settle_seconds: files changed more recently than this are left out of a scan.
        files: which files are pictures.
    """

    def __init__(
        self, folder: Path, *, recursive: bool = True, settle_seconds: float = 0.0, files: FileFilter | None = None
    ) -> None:
        self.folder = folder
        self.recursive = recursive
        self.settle_seconds = settle_seconds
        self.files = files or FileFilter()
        self._left_out = 0
        self._start = len(str(folder).rstrip("/")) + 1  # of what is relative in a path

    def scan(self) -> Iterator[Item]:
        """Files in order of their names. Raises FileNotFoundError where the folder is gone."""
        for _, item in self._entries(str(self.folder), ()):
            if item is not None and not self._unsettled(item):
                yield item

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """Files in order of their names, part by part, behind a path below the folder.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        del until
        items: list[Item] = []
        looked, left_out = 0, self._left_out
        for path, item in self._entries(str(self.folder), after.split("/") if after else ()):
            looked += 1
            if item is not None:
                items.append(item)
            if looked == _PAGE:
                yield self._page(items, path[self._start :], left_out)
                items, looked, left_out = [], 0, self._left_out
        yield self._page(items, _BEHIND, left_out, last=True)

    def look(self, folder: str, wanted: Callable[[Sequence[str]], Sequence[bool]]) -> tuple[list[str], Iterator[Page]]:
        """What is in one folder: the names of the folders below, and pages of the pictures whose URIs are wanted.

        Raises:
            OSError: it cannot be read.
        """
        below: list[str] = []
        chosen: list[os.DirEntry[str]] = []
        sidecars: dict[str, list[str]] = {}
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            while some := list(islice(shown, _LOOKED_AT)):
                if self.recursive:
                    below += [entry.name for entry in some if entry.is_dir(follow_symlinks=False)]
                for name, places in self._sidecars(some).items():
                    sidecars.setdefault(name, []).extend(places)
                pictures = [entry for entry in some if self.files.is_picture(entry.path[self._start :])]
                chosen += compress(pictures, wanted([_uri(entry.path) for entry in pictures]))
        return below, self._pages_of(chosen, sidecars)

    @property
    def keys(self) -> SortedKeys | None:
        """A folder is read as a whole, wherever one begins."""
        return None

    def complete(self, items: Sequence[Item]) -> list[Item]:
        """The items with what their sidecars say."""
        return with_columns(items, _head)

    def fetch(self, uri: str, etag: str) -> bytes:
        """The file's bytes. Raises FetchError: gone, also when it has changed since it was planned."""
        try:
            with open(_path(uri), "rb") as file:
                if file_etag(os.fstat(file.fileno())) != etag:
                    raise FetchError("gone", _CHANGED)
                data = file.read()
                if file_etag(os.fstat(file.fileno())) != etag or not etag.startswith(f"{len(data)}-"):
                    raise FetchError("gone", _CHANGED)  # while it was read
                return data
        except FileNotFoundError:
            raise FetchError("gone", "the file is no longer there") from None
        except PermissionError as error:
            raise FetchError("forbidden", _reason(error)) from None
        except OSError as error:
            raise FetchError("unreadable", _reason(error)) from None

    def _page(self, items: list[Item], after: str, left_out: int, *, last: bool = False) -> Page:
        if not self.settle_seconds:
            return Page(items, after, last, whole=left_out == self._left_out)
        settled: list[Item] = []
        unsettled: list[Item] = []
        for item in items:
            (unsettled if self._unsettled(item) else settled).append(item)
        return Page(settled, after, last, unsettled, whole=left_out == self._left_out)

    def _entries(self, folder: str, after: Sequence[str]) -> Iterator[tuple[str, Item | None]]:
        """The files of a folder behind a place, given as the names of its parts, and the pictures among them."""
        with os.scandir(folder) as entries:
            ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda each: each.name)
        sidecars = self._sidecars(ordered)
        first = after[0] if after else ""
        for entry in ordered:
            if entry.name < first:
                continue
            rest = after[1:] if entry.name == first else ()
            try:
                if entry.is_dir(follow_symlinks=False):
                    if self.recursive:
                        yield from self._entries(entry.path, rest)
                elif entry.name != first:
                    yield entry.path, self._item(entry, sidecars)
            except OSError as error:
                self._leave_out(entry, error)

    def _pages_of(self, entries: Sequence[os.DirEntry[str]], sidecars: Mapping[str, Sequence[str]]) -> Iterator[Page]:
        for start in range(0, len(entries) or 1, _PAGE):
            items, left_out = [], self._left_out
            for entry in entries[start : start + _PAGE]:
                try:
                    items += filter(None, [self._item(entry, sidecars)])
                except OSError as error:
                    self._leave_out(entry, error)
            yield self._page(items, "", left_out, last=start + _PAGE >= len(entries))

    def _leave_out(self, entry: os.DirEntry[str], error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted while we looked, or a link to nothing
            self._left_out += error.errno != errno.ELOOP  # a link to itself is no file that was
            _log.warning("%s: left out of the scan: %s", entry.path, _reason(error))

    def _sidecars(self, entries: Iterable[os.DirEntry[str]]) -> dict[str, list[str]]:
        """The sidecars among files of one folder, by their paths without extension."""
        found: dict[str, list[str]] = {}
        for entry in entries:
            if entry.name.lower().endswith(SIDECAR_EXTENSIONS) and self.files.is_sidecar(entry.name):
                found.setdefault(os.path.splitext(entry.path)[0], []).append(entry.path)
        return found

    def _item(self, entry: os.DirEntry[str], sidecars: Mapping[str, Sequence[str]]) -> Item | None:
        """The item of a file. Raises OSError."""
        if not self.files.is_picture(entry.path[self._start :]):
            return None
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block its reader
            return None
        beside = tuple(sidecars.get(os.path.splitext(entry.path)[0], ())) if sidecars else ()
        return Item(_uri(entry.path), file_etag(status), status.st_size, _modified(status), sidecars=beside)

    def _unsettled(self, item: Item) -> bool:
        # the distance, not the order: a clock that is wrong (a camera's) must not keep a file out for years
        if not self.settle_seconds or item.modified is None:
            return False
        return abs(time.time() - item.modified.timestamp()) < self.settle_seconds


def _head(path: str) -> bytes:
    if not os.path.isfile(path):
        raise FileNotFoundError(path)  # a pipe would block its reader for ever
    with open(path, "rb") as file:
        return file.read(SIDECAR_LIMIT + 1)


def file_etag(status: os.stat_result) -> str:
    """A file's size and modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _modified(status: os.stat_result) -> datetime | None:
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # outside of the calendar


def _uri(path: str) -> str:
    """The path, or an escaped URL of it: Linux allows names that are no UTF-8 text, Parquet does not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _ESCAPED + quote_from_bytes(os.fsencode(path))
    return path


def _path(uri: str) -> str | bytes:
    return unquote_to_bytes(uri.removeprefix(_ESCAPED)) if uri.startswith(_ESCAPED) else uri


def _reason(error: OSError) -> str:
    """What went wrong, without the path: messages travel further than the machine's file names should."""
    return error.strerror or type(error).__name__
