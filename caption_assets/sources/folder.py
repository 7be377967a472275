"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, islice
from pathlib import Path
from typing import BinaryIO

from caption_assets.sources.base import FetchError, Item, Page, Run, SortedKeys
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, with_columns
from caption_assets.sources.folder_files import Listing, Looked, file_etag, path_of, uri_of
from caption_assets.sources.spool import LARGE, Body, Spool

_log = logging.getLogger(__name__)
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
        self._root = str(folder).rstrip("/")
        self._start = len(self._root) + 1  # of what is relative in a path

    def scan(self) -> Iterator[Item]:
        """Files in order of their names. Raises FileNotFoundError where the folder is gone."""
        for _, looked in self._pieces(self._root, ()):
            yield from looked.apart(self.settle_seconds)[0].items(self.files)

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """Files in order of their names, part by part, behind a path below the folder.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        del until
        some: list[Looked] = []
        count, left_out = 0, self._left_out
        for names, looked in self._pieces(self._root, after.split("/") if after else ()):
            some.append(looked)
            count += len(names)
            if count >= _PAGE:
                yield self._page(some, f"{looked.listing.folder}/{names[-1]}"[self._start :], left_out)
                some, count, left_out = [], 0, self._left_out
        yield self._page(some, _BEHIND, left_out, last=True)

    def look(self, folder: str, wanted: Callable[[Sequence[str]], Sequence[bool]]) -> tuple[list[str], Iterator[Page]]:
        """What is in one folder: the names of the folders below, and pages of the pictures whose URIs are wanted.

        Raises:
            OSError: it cannot be read.
        """
        listing = Listing.of(folder.rstrip("/"))
        shown = iter([name for name in listing.names if name not in listing.folders])
        chosen: list[str] = []
        while some := list(islice(shown, _LOOKED_AT)):
            pictures = self._pictures(listing.folder, some)
            chosen += compress(pictures, wanted([uri_of(f"{listing.folder}/{name}") for name in pictures]))
        return sorted(listing.folders) if self.recursive else [], self._pages_of(listing, chosen)

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
            with open(path_of(uri), "rb") as file:
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

    def _page(self, some: Sequence[Looked], after: str, left_out: int, *, last: bool = False) -> Page:
        """What was looked at: as runs where none of it is still being written."""
        runs: list[Run] = []
        items: list[Item] = []
        unsettled: list[Item] = []
        for looked in some:
            if not looked.names:
                continue
            settled, young = looked.apart(self.settle_seconds)
            if young.names:
                items += settled.items(self.files)
                unsettled += young.items(self.files)
            else:
                runs.append(looked.run(self.files))
        return Page(items, after, last, unsettled, whole=left_out == self._left_out, runs=runs)

    def _pieces(self, folder: str, after: Sequence[str]) -> Iterator[tuple[list[str], Looked]]:
        """Names of a folder that stand together, behind a place given as the names of its parts, and the pictures."""
        listing = Listing.of(folder)
        first = after[0] if after else ""
        for names in listing.pieces(first, _PAGE):
            if names[0] in listing.folders:
                path = f"{folder}/{names[0]}"
                try:
                    if self.recursive:
                        yield from self._pieces(path, after[1:] if names[0] == first else ())
                except OSError as error:
                    self._leave_out(path, error)
            elif behind := names[names[0] == first :]:
                yield behind, self._look_at(listing, behind)

    def _look_at(self, listing: Listing, names: list[str]) -> Looked:
        return Looked.at(listing, self._pictures(listing.folder, names), self._leave_out)

    def _pictures(self, folder: str, names: list[str]) -> list[str]:
        """Those names of a folder's files that are a picture's."""
        return self.files.pictures(f"{folder}/"[self._start :], names)

    def _pages_of(self, listing: Listing, names: list[str]) -> Iterator[Page]:
        """Pages of these pictures, each of which is an item."""
        for start in range(0, len(names) or 1, _PAGE):
            left_out = self._left_out
            looked = Looked.at(listing, names[start : start + _PAGE], self._leave_out)
            settled, young = (part.items(self.files) for part in looked.apart(self.settle_seconds))
            last = start + _PAGE >= len(names)
            yield Page(settled, "", last, young, whole=left_out == self._left_out)

    def _leave_out(self, path: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted while we looked, or a link to nothing
            self._left_out += error.errno != errno.ELOOP  # a link to itself is no file that was
            _log.warning("%s: left out of the scan: %s", path, _reason(error))


def _copied(file: BinaryIO) -> Spool:
    """A copy that nobody changes while it is read again and again. Raises FetchError, OSError."""
    with Spool(on_disk=True) as copy:
        while piece := file.read(_PIECE):
            copy.write(piece)
        return copy


def _head(path: str) -> bytes:
    if not os.path.isfile(path):
        raise FileNotFoundError(path)  # a pipe would block its reader for ever
    with open(path, "rb") as file:
        return file.read(SIDECAR_LIMIT + 1)


def _reason(error: OSError) -> str:
    """What went wrong, without the path: messages travel further than the machine's file names should."""
    return error.strerror or type(error).__name__
