"""Pictures in a folder: an item is a file, its etag is its size and modification time in nanoseconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from caption_assets.sources.base import FetchError, Item

EXTENSIONS = frozenset(
    ".jpg .jpeg .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jxl".split()
)


class FolderSource:
    """Files with a picture's extension under a folder.

    Args:
        folder: absolute path.
        recursive: whether sub-folders count; hidden files and folders never do.
        settle_seconds: files changed more recently than this are left out of a scan.
    """

    def __init__(self, folder: Path, *, recursive: bool = True, settle_seconds: float = 0.0) -> None:
        self.folder = folder
        self.recursive = recursive
        self.settle_seconds = settle_seconds

    def scan(self) -> Iterator[Item]:
        """Files in order of their names. Raises FileNotFoundError where the folder is gone."""
        youngest = time.time() - self.settle_seconds
        for path, status in self._files(str(self.folder)):
            if self.settle_seconds and status.st_mtime > youngest:
                continue
            yield Item(
                uri=path,
                etag=f"{status.st_size}-{status.st_mtime_ns}",
                size=status.st_size,
                modified=datetime.fromtimestamp(status.st_mtime, UTC),
            )

    def fetch(self, uri: str, etag: str) -> bytes:
        """The file's bytes. Raises FetchError: gone, also when it has changed since it was planned."""
        try:
            with open(uri, "rb") as file:
                status = os.fstat(file.fileno())
                if f"{status.st_size}-{status.st_mtime_ns}" != etag:
                    raise FetchError("gone", "the file has changed since it was planned; the new one is an item of its own")
                return file.read()
        except FileNotFoundError:
            raise FetchError("gone", "the file is no longer there") from None
        except PermissionError as error:
            raise FetchError("forbidden", str(error)) from None
        except OSError as error:
            raise FetchError("unreadable", str(error)) from None

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            if entry.name.startswith(".") or not _storable(entry.name):
                continue
            try:
                if entry.is_dir():
                    if self.recursive and not entry.is_symlink():
                        yield from self._files(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    yield entry.path, entry.stat()
            except FileNotFoundError:
                continue  # deleted while we looked


def _storable(name: str) -> bool:
    """Whether a file name can be a UTF-8 string: Linux allows names that cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
