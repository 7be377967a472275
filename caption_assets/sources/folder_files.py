"""The files of a folder, looked at together: what a scan of millions costs is what is done for each of them."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from operator import attrgetter
from urllib.parse import quote_from_bytes, unquote_to_bytes

from caption_assets.sources.base import Item, Run
from caption_assets.sources.files import FileFilter

_ESCAPED = "file://"
_CUT = 512
"""One in so many names ends a piece of a folder that has more than a piece's, so that pieces after a new name are as
they were."""

_of_status = attrgetter("st_mode", "st_size", "st_mtime_ns")

Failed = Callable[[str, OSError], None]
"""Is told of a path that cannot be looked at."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder, but what is hidden."""

    folder: str
    """Without a slash at its end."""
    names: list[str]
    """In order."""
    folders: set[str]
    """Which of them are folders, and no links to any."""

    @classmethod
    def of(cls, folder: str) -> Listing:
        """Read it. No more than names: there may be millions. Raises OSError."""
        names: list[str] = []
        folders: set[str] = set()
        with os.scandir(folder or "/") as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                names.append(name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.add(name)
                except OSError:
                    pass  # looked at again, and told then
        names.sort()
        return cls(folder, names, folders)

    def pieces(self, first: str, size: int) -> Iterator[list[str]]:
        """The names from `first` on: files that stand together, up to so many, and each folder by itself."""
        piece: list[str] = []
        names = self.names[bisect_left(self.names, first) :] if first else self.names
        cuts = len(self.names) - len(self.folders) > size
        if names and not self.folders and not cuts:
            yield names
            return
        for name in names:
            if name in self.folders:
                if piece:
                    yield piece
                    piece = []
                yield [name]
                continue
            piece.append(name)
            if len(piece) == size or (cuts and zlib.crc32(os.fsencode(name)) % _CUT == 0):
                yield piece
                piece = []
        if piece:
            yield piece

    def sidecars(self, name: str, files: FileFilter) -> tuple[str, ...]:
        """The paths of a picture's sidecars."""
        if not files.sidecars:
            return ()
        stem = os.path.splitext(name)[0]
        begin = f"{stem}."
        found = []
        for place in range(bisect_left(self.names, begin), len(self.names)):
            other = self.names[place]
            if not other.startswith(begin):
                break
            if os.path.splitext(other)[0] == stem and files.is_sidecar(other):
                found.append(f"{self.folder}/{other}")
        return tuple(found)


@dataclass(frozen=True)
class Looked:
    """Pictures of a folder as they were when they were looked at."""

    listing: Listing
    names: Sequence[str]
    sizes: Sequence[int]
    times: Sequence[int]
    """When they were modified, in nanoseconds since 1970."""

    @classmethod
    def at(cls, listing: Listing, names: Sequence[str], failed: Failed) -> Looked:
        """Look at these names; what is no file, or cannot be looked at, is left out."""
        if not names:
            return cls(listing, (), (), ())
        try:
            handle = os.open(listing.folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            failed(listing.folder, error)
            return cls(listing, (), (), ())
        try:
            found = [_of_status(os.stat(name, dir_fd=handle)) for name in names]
        except OSError:
            there = [(name, _look(listing.folder, name, handle, failed)) for name in names]
            names, found = [name for name, each in there if each], [each for _, each in there if each]
        finally:
            os.close(handle)
        modes, sizes, times = zip(*found, strict=True) if found else ((), (), ())
        looked = cls(listing, names, sizes, times)
        if {*map(stat.S_IFMT, modes)} - {stat.S_IFREG}:  # a pipe would block its reader
            return looked._of([stat.S_ISREG(mode) for mode in modes])
        return looked

    def apart(self, seconds: float) -> tuple[Looked, Looked]:
        """Those that are settled, and those that were changed within so many seconds and may still be being written.

        Also of times to come: a clock that is wrong (a camera's) must not keep a file out for years.
        """
        now = time.time()
        first, last = (now - seconds) * 1e9, (now + seconds) * 1e9
        young = [first < modified < last for modified in self.times] if seconds else []
        if not any(young):
            return self, self._of(())
        return self._of([not each for each in young]), self._of(young)

    def _of(self, chosen: Sequence[bool]) -> Looked:
        """Only the chosen ones."""
        sizes, times = (tuple(compress(each, chosen)) for each in (self.sizes, self.times))
        return Looked(self.listing, tuple(compress(self.names, chosen)), sizes, times)

    def items(self, files: FileFilter) -> list[Item]:
        """The items, in the order of their names."""
        return [
            Item(
                uri_of(f"{self.listing.folder}/{name}"),
                _etag(size, time),
                size,
                _modified(time),
                sidecars=self.listing.sidecars(name, files),
            )
            for name, size, time in zip(self.names, self.sizes, self.times, strict=True)
        ]

    def run(self, files: FileFilter) -> Run:
        """What they are recognised by: all that makes them the items that they are."""
        try:
            numbers = array("q", self.sizes).tobytes() + array("q", self.times).tobytes()
        except OverflowError:  # times from 2262 on
            numbers = repr((self.sizes, self.times)).encode()
        names = os.fsencode("\0".join([self.listing.folder, *self.names]))
        digest = hashlib.blake2b(names + b"\0\0" + numbers, digest_size=16).digest()
        return Run(digest, len(self.names), lambda: self.items(files))


def file_etag(status: os.stat_result) -> str:
    """A file's size and modification time in nanoseconds."""
    return _etag(status.st_size, status.st_mtime_ns)


def _etag(size: int, modified: int) -> str:
    return f"{size}-{modified}"


def uri_of(path: str) -> str:
    """The path, or an escaped URL of it: Linux allows names that are no UTF-8 text, Parquet does not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _ESCAPED + quote_from_bytes(os.fsencode(path))
    return path


def path_of(uri: str) -> str | bytes:
    """The path of a file's URI."""
    return unquote_to_bytes(uri.removeprefix(_ESCAPED)) if uri.startswith(_ESCAPED) else uri


def _look(folder: str, name: str, handle: int, failed: Failed) -> tuple[int, int, int] | None:
    try:
        return _of_status(os.stat(name, dir_fd=handle))
    except OSError as error:
        failed(f"{folder}/{name}", error)
        return None


def _modified(nanoseconds: int) -> datetime | None:
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        return datetime.fromtimestamp(seconds + 1e-9 * rest, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # outside of the calendar
