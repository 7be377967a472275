"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import compress, islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from caption_assets.sources.base import FetchError, Item, Page, SortedKeys
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, with_columns
from caption_assets.sources.spool import LARGE, Body, Spool

_log = logging.getLogger(__name__)
_ESCAPED = "file://"
_PAGE = 1000
_PIECE = 1 << 20
_LOOKED_AT = 10_000
"""Files of a folder that are looked up together."""
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
        names, folders = _names(folder)
        shown = iter([name for name in names if name not in folders])
        chosen: list[str] = []
        while some := list(islice(shown, _LOOKED_AT)):
            paths = [
                path for name in some if self.files.is_picture((path := os.path.join(folder, name))[self._start :])
            ]
            chosen += compress(paths, wanted([_uri(path) for path in paths]))
        return sorted(folders) if self.recursive else [], self._pages_of(chosen, names)

    @property
    def keys(self) -> SortedKeys | None:
        """A folder is read as a whole, wherever one begins."""
        return None

    def complete(self, items: Sequence[Item]) -> list[Item]:
        """The items with what their sidecars say."""
        return with_columns(items, _head)

    def fetch(self, uri: str, etag: str) -> Body:
        """The file's bytes. Raises FetchError: gone, also when it has changed since it was planned."""
        try:
            with open(_path(uri), "rb") as file:
                found = os.fstat(file.fileno())
                if file_etag(found) != etag:
                    raise FetchError("gone", _CHANGED)
                data = file.read(found.st_size) if found.st_size <= LARGE else _copied(file)
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
        names, folders = _names(folder)
        first = after[0] if after else ""
        for name in names[bisect_left(names, first) :]:
            path = os.path.join(folder, name)
            try:
                if name in folders:
                    if self.recursive:
                        yield from self._entries(path, after[1:] if name == first else ())
                elif name != first:
                    yield path, self._item(path, names)
            except OSError as error:
                self._leave_out(path, error)

    def _pages_of(self, paths: Sequence[str], names: Sequence[str]) -> Iterator[Page]:
        """Pages of these files, whose folder has these names."""
        for start in range(0, len(paths) or 1, _PAGE):
            items: list[Item] = []
            left_out = self._left_out
            for path in paths[start : start + _PAGE]:
                try:
                    items += filter(None, [self._item(path, names)])
                except OSError as error:
                    self._leave_out(path, error)
            yield self._page(items, "", left_out, last=start + _PAGE >= len(paths))

    def _leave_out(self, path: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted while we looked, or a link to nothing
            self._left_out += error.errno != errno.ELOOP  # a link to itself is no file that was
            _log.warning("%s: left out of the scan: %s", path, _reason(error))

    def _item(self, path: str, names: Sequence[str]) -> Item | None:
        """The item of a file, whose folder has these names. Raises OSError."""
        if not self.files.is_picture(path[self._start :]):
            return None
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block its reader
            return None
        return Item(
            _uri(path), file_etag(status), status.st_size, _modified(status), sidecars=self._beside(path, names)
        )

    def _beside(self, path: str, names: Sequence[str]) -> tuple[str, ...]:
        """The paths of a picture's sidecars."""
        if not self.files.sidecars:
            return ()
        stem = os.path.splitext(path)[0]
        begin = os.path.basename(stem) + "."
        found = []
        for place in range(bisect_left(names, begin), len(names)):
            name = names[place]
            if not name.startswith(begin):
                break
            if os.path.splitext(name)[0] + "." == begin and self.files.is_sidecar(name):
                found.append(stem + name[len(begin) - 1 :])
        return tuple(found)

    def _unsettled(self, item: Item) -> bool:
        # the distance, not the order: a clock that is wrong (a camera's) must not keep a file out for years
        if not self.settle_seconds or item.modified is None:
            return False
        return abs(time.time() - item.modified.timestamp()) < self.settle_seconds


def _copied(file: BinaryIO) -> Spool:
    """A copy that nobody changes while it is read again and again. Raises FetchError, OSError."""
    with Spool(on_disk=True) as copy:
        while piece := file.read(_PIECE):
            copy.write(piece)
        return copy


def _names(folder: str) -> tuple[list[str], set[str]]:
    """The names in a folder that are not hidden, in order, and which are folders. No more: there may be millions."""
    names: list[str] = []
    folders: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
                with suppress(OSError):  # looked at again, and told then
                    if entry.is_dir(follow_symlinks=False):
                        folders.add(entry.name)
    names.sort()
    return names, folders


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
