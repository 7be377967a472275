"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, with_columns

_log = logging.getLogger(__name__)
_ESCAPED = "file://"
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

    def scan(self) -> Iterator[Item]:
        """Files in order of their names. Raises FileNotFoundError where the folder is gone."""
        yield from self._items(str(self.folder))

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

    def _items(self, folder: str) -> Iterator[Item]:
        with os.scandir(folder) as entries:
            ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda each: each.name)
        sidecars: dict[str, list[str]] = {}
        for entry in ordered:
            if self.files.is_sidecar(entry.name):
                sidecars.setdefault(os.path.splitext(entry.path)[0], []).append(entry.path)
        start = len(str(self.folder).rstrip("/")) + 1
        for entry in ordered:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if self.recursive:
                        yield from self._items(entry.path)
                elif self.files.is_picture(entry.path[start:]):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode) and not self._unsettled(status):  # a pipe would block its reader
                        beside = tuple(sidecars.get(os.path.splitext(entry.path)[0], ()))
                        modified = _modified(status)
                        yield Item(_uri(entry.path), file_etag(status), status.st_size, modified, sidecars=beside)
            except FileNotFoundError:
                continue  # deleted while we looked, or a link to nothing
            except OSError as error:
                _log.warning("%s: left out of the scan: %s", entry.path, _reason(error))

    def _unsettled(self, status: os.stat_result) -> bool:
        # the distance, not the order: a clock that is wrong (a camera's) must not keep a file out for years
        return bool(self.settle_seconds) and abs(time.time() - status.st_mtime) < self.settle_seconds


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
