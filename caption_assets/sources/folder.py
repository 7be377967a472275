"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import compress, islice
from pathlib import Path
from typing import BinaryIO

from caption_assets.sources.base import FetchError, Item, Page, Run, SortedKeys
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, with_columns
from caption_assets.sources.folder_files import Listing, Looked, Piece, file_etag, leave_out, look, path_of, uri_of
from caption_assets.sources.spool import LARGE, Body, Spool

_PAGE = 1000
_PIECE = 1 << 20
_AHEAD = 4
"""Pages that are looked at before their turn, by one thread: of a second one's time most is waiting for the first."""
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
        self._root = str(folder).rstrip("/")
        self._start = len(self._root) + 1  # of what is relative in a path

    def scan(self) -> Iterator[Item]:
        """Files in order of their names. Raises FileNotFoundError where the folder is gone."""
        for piece in self._pieces(self._root, ()):
            for looked in look([piece]):
                yield from looked.apart(self.settle_seconds)[0].items(self.files)

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """Files in order of their names, part by part, behind a path below the folder.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        del until
        under_way: deque[tuple[Future[list[Looked]], str]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="looking") as pool:
            try:
                for batch, place in self._batches(after.split("/") if after else ()):
                    under_way.append((pool.submit(look, batch), place))
                    if len(under_way) > _AHEAD:
                        yield self._page(*under_way.popleft())
                while under_way:
                    yield self._page(*under_way.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

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

    def _page(self, looking: Future[list[Looked]], after: str) -> Page:
        """What was looked at, up to a place: as runs where none of it is still being written."""
        some = looking.result()
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
        whole = all(looked.whole for looked in some)
        return Page(items, after, after == _BEHIND, unsettled, whole=whole, runs=runs)

    def _batches(self, after: Sequence[str]) -> Iterator[tuple[list[Piece], str]]:
        """Pieces for pages of like size behind a place, and the place where each ends; the last may be empty."""
        batch: list[Piece] = []
        count = 0
        for piece in self._pieces(self._root, after):
            batch.append(piece)
            count += piece.count
            if count >= _PAGE:
                yield batch, f"{piece.listing.folder}/{piece.last}"[self._start :]
                batch, count = [], 0
        yield batch, _BEHIND

    def _pieces(self, folder: str, after: Sequence[str]) -> Iterator[Piece]:
        """What is in a folder and below it, behind a place given as the names of its parts."""
        listing = Listing.of(folder)
        first = after[0] if after else ""
        for names in listing.pieces(first, _PAGE):
            if names[0] in listing.folders:
                path = f"{folder}/{names[0]}"
                try:
                    if self.recursive:
                        yield from self._pieces(path, after[1:] if names[0] == first else ())
                except OSError as error:
                    yield Piece(Listing(path, [], set()), (), whole=not leave_out(path, error))
            elif behind := names[names[0] == first :]:
                yield Piece(listing, self._pictures(folder, behind), behind[-1], len(behind))

    def _pictures(self, folder: str, names: list[str]) -> list[str]:
        """Those names of a folder's files that are a picture's."""
        return self.files.pictures(f"{folder}/"[self._start :], names)

    def _pages_of(self, listing: Listing, names: list[str]) -> Iterator[Page]:
        """Pages of these pictures, each of which is an item."""
        for start in range(0, len(names) or 1, _PAGE):
            (looked,) = look([Piece(listing, names[start : start + _PAGE])])
            settled, young = (part.items(self.files) for part in looked.apart(self.settle_seconds))
            yield Page(settled, "", start + _PAGE >= len(names), young, whole=looked.whole)


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
