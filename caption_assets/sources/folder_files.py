"""The files of a folder, looked at together: what a scan of millions costs is what is done for each of them."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress, islice
from typing import cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pyarrow.fs import LocalFileSystem

from caption_assets.sources.base import Item, Run
from caption_assets.sources.files import FileFilter

_ESCAPED = "file://"
_CUT = 512
"""One in so many names ends a piece of a folder that has more than a piece's, so that pieces after a new name are as
they were."""

_ENTRIES = 1000
"""Of a folder, read at once."""
_LOCAL = LocalFileSystem()
_log = logging.getLogger(__name__)


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
        handle = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(handle) as entries:  # which makes no paths
                while some := list(islice(entries, _ENTRIES)):
                    shown = [entry for entry in some if entry.name[0] != "."]
                    names += [entry.name for entry in shown]
                    try:
                        folders.update([entry.name for entry in shown if entry.is_dir(follow_symlinks=False)])
                    except OSError:
                        folders.update(entry.name for entry in shown if _is_folder(entry))
        finally:
            os.close(handle)
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
class Piece:
    """Names of a folder that stand together."""

    listing: Listing
    pictures: Sequence[str]
    """Which of them are a picture's."""
    last: str = ""
    """The last one."""
    count: int = 0
    """Of all of them."""
    whole: bool = True
    """Whether the folder could be read."""


@dataclass(frozen=True)
class Looked:
    """Pictures of a folder as they were when they were looked at."""

    listing: Listing
    names: Sequence[str]
    sizes: Sequence[int]
    times: Sequence[int]
    """When they were modified, in nanoseconds since 1970, as 64 bits hold them."""
    whole: bool = True
    """Whether all could be looked at."""

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
        return Looked(self.listing, tuple(compress(self.names, chosen)), sizes, times, self.whole)

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
        numbers = array("q", self.sizes).tobytes() + array("q", self.times).tobytes()
        names = os.fsencode("\0".join([self.listing.folder, *self.names]))
        digest = hashlib.blake2b(names + b"\0\0" + numbers, digest_size=16).digest()
        return Run(digest, len(self.names), lambda: self.items(files))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # looked at again, and told then


def look(pieces: Sequence[Piece]) -> list[Looked]:
    """Look at the pictures of pieces; what is no file, or cannot be looked at, is left out.

    The system is asked for all of them at once, without the interpreter, which other threads may have.
    """
    paths = [f"{piece.listing.folder}/{name}" for piece in pieces for name in piece.pictures]
    sizes: list[int | None]
    times: list[int | None]
    try:
        found = _LOCAL.get_file_info(paths)
        sizes, times = [each.size for each in found], [each.mtime_ns for each in found]  # no pairs for the collector
    except (OSError, ValueError):  # of one of them, whose name may be no UTF-8 text
        sizes = times = [None] * len(paths)
    start, looked = 0, []
    for piece in pieces:
        end = start + len(piece.pictures)
        looked.append(_looked(piece, sizes[start:end], times[start:end]))
        start = end
    return looked


def leave_out(path: str, error: OSError) -> bool:
    """Tell that a path cannot be looked at; whether something that was there may be missed."""
    if isinstance(error, FileNotFoundError):  # deleted while we looked, or a link to nothing
        return False
    _log.warning("%s: left out of the scan: %s", path, error.strerror or type(error).__name__)
    return error.errno != errno.ELOOP  # a link to itself is no file that was


def file_etag(status: os.stat_result) -> str:
    """A file's size and modification time in nanoseconds."""
    return _etag(status.st_size, _in_64_bits(status.st_mtime_ns))


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


def _looked(piece: Piece, sizes: Sequence[int | None], times: Sequence[int | None]) -> Looked:
    """A piece, looked at: what is not known to be a file is looked at by itself."""
    names, whole = piece.pictures, piece.whole
    if None in sizes or None in times:
        found = list(zip(sizes, times, strict=True))
        for place, name in enumerate(names):
            if None in found[place]:
                path = f"{piece.listing.folder}/{name}"
                try:
                    found[place] = _of_file(os.stat(path))
                except OSError as error:
                    whole = not leave_out(path, error) and whole
        files = [size is not None for size, _ in found]
        names = list(compress(names, files))
        sizes, times = zip(*compress(found, files), strict=True) if names else ((), ())
    return Looked(piece.listing, names, cast("Sequence[int]", sizes), cast("Sequence[int]", times), whole)


def _of_file(status: os.stat_result) -> tuple[int | None, int | None]:
    """Size and time of a file; of anything else, which might block its reader, none."""
    return (status.st_size, _in_64_bits(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else (None, None)


def _in_64_bits(nanoseconds: int) -> int:
    """A time as 64 bits hold it: from 2262 on it is another one, which is as good to tell versions apart."""
    return (nanoseconds + (1 << 63)) % (1 << 64) - (1 << 63)


def _modified(nanoseconds: int) -> datetime | None:
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        return datetime.fromtimestamp(seconds + 1e-9 * rest, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # outside of the calendar
