"""The lake's root: atomic files on a folder or an object store, through fsspec.

A reader never sees half a file: a local file is written beside and renamed, an object is one PUT. A claim is a file made
by create-if-absent (hard link locally, `If-None-Match: *` on an object store): of two writers exactly one wins.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

_STRAY_AGE_SECONDS = 3600.0


class Lake:
    """Files under one root, named by relative POSIX paths.

    Args:
        root: an absolute folder, or a URL that fsspec knows (`s3://bucket/prefix`).
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.local = "://" not in self.root or self.root.startswith("file://")
        self.fs, self._base = fsspec.core.url_to_fs(self.root)

    def path(self, relative: str) -> str:
        """Path of a file as this lake's filesystem names it."""
        return f"{self._base}/{relative}"

    def url(self, relative: str) -> str:
        """Path of a file as a user or DuckDB names it: absolute locally, a URL elsewhere."""
        return self.path(relative) if self.local else f"{self.root}/{relative}"

    def exists(self, relative: str) -> bool:
        """Whether the file is there now (never from a cached listing)."""
        self.fs.invalidate_cache(self.path(relative).rsplit("/", 1)[0])
        return bool(self.fs.exists(self.path(relative)))

    def list(self, folder: str) -> list[str]:
        """Names of the entries in a folder, sorted; empty where there is no such folder."""
        base = self.path(folder)
        self.fs.invalidate_cache(base)
        try:
            entries = self.fs.ls(base, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in entries)

    def read(self, relative: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return cast(bytes, self.fs.cat_file(self.path(relative)))

    def read_range(self, relative: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`: one range request. Raises FileNotFoundError."""
        return cast(bytes, self.fs.cat_file(self.path(relative), start=offset, end=offset + length))

    def open(self, relative: str) -> BinaryIO:
        """The file, opened to read."""
        return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))

    def write(self, relative: str, data: bytes) -> None:
        """Put a file in place, whole or not at all, over what was there."""
        if not self.local:
            self.fs.pipe_file(self.path(relative), data)
            return
        with self._beside(relative) as temporary:
            temporary.write_bytes(data)
            _sync(temporary)
            temporary.replace(self.path(relative))

    def create(self, relative: str, data: bytes) -> bool:
        """Put a file in place only if there is none: False when somebody else was first."""
        if not self.local:
            try:
                self.fs.pipe_file(self.path(relative), data, mode="create")
            except FileExistsError:
                return False
            return True
        with self._beside(relative) as temporary:
            temporary.write_bytes(data)
            _sync(temporary)
            try:
                os.link(temporary, self.path(relative))
            except FileExistsError:
                return False
            return True

    @contextmanager
    def place(self, relative: str) -> Iterator[Path]:
        """Give a local scratch file to write; when the block ends well it becomes `relative`, atomically."""
        with self._beside(relative) as temporary:
            yield temporary
            if self.local:
                _sync(temporary)
                temporary.replace(self.path(relative))
            else:
                self.fs.put_file(str(temporary), self.path(relative))

    def remove(self, relative: str) -> None:
        """Delete a file; nothing happens where there is none."""
        try:
            self.fs.rm_file(self.path(relative))
        except FileNotFoundError:
            return

    def remove_strays(self) -> None:
        """Delete scratch files that writers killed an hour ago or more left behind."""
        scratch = self._scratch()
        for file in scratch.glob("*.tmp") if scratch.is_dir() else ():
            if time.time() - file.stat().st_mtime > _STRAY_AGE_SECONDS:
                file.unlink(missing_ok=True)

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table. Raises FileNotFoundError."""
        with self.open(relative) as file:
            return pq.ParquetFile(file).read(columns=columns)

    def _scratch(self) -> Path:
        if self.local:
            return Path(self.path(".scratch"))
        return Path(os.environ.get("TMPDIR", "/tmp")) / "caption-assets-scratch"

    @contextmanager
    def _beside(self, relative: str) -> Iterator[Path]:
        """A scratch file on the lake's own filesystem (renaming must stay atomic), removed afterwards."""
        scratch = self._scratch()
        scratch.mkdir(parents=True, exist_ok=True)
        if self.local:
            Path(self.path(relative)).parent.mkdir(parents=True, exist_ok=True)
        temporary = scratch / f"{uuid.uuid4().hex}.tmp"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and all under it."""
        if self.local:
            shutil.rmtree(self.path(folder), ignore_errors=True)
        elif self.fs.exists(self.path(folder)):
            self.fs.rm(self.path(folder), recursive=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def table_bytes(table: pa.Table) -> bytes:
    """A table as one zstd-compressed Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return cast(bytes, sink.getvalue().to_pybytes())
