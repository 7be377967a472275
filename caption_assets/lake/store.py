"""The lake's root: atomic files on a folder or an object store, through fsspec.

A reader never sees half a file: a local file is written beside and renamed, an object is one PUT. A claim is a file
made by create-if-absent (hard link locally, `If-None-Match: *` on an object store): of two writers exactly one wins.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from caption_assets.lake.object_store import claim, is_s3, list_objects_after, open_store
from caption_assets.lake.parquet import parquet_file, read_columns

_STRAY_AGE_SECONDS = 3600.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class LakeFull(OSError):
    """A disk has no room for a file of the lake. All files that are there stay as they are."""

    def __init__(self, folder: Path) -> None:
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        super().__init__(
            f"the disk of {folder} is full ({usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB are free); "
            "make room and run again: what was written is kept"
        )


class Lake:
    """Files under one root, named by relative POSIX paths.

    Args:
        root: an absolute folder, or a URL that fsspec knows (`s3://bucket/prefix`).
    """

    def __init__(self, root: str) -> None:
        self.local = "://" not in root or root.startswith("file://")
        self.root = root if root.endswith("://") else root.rstrip("/")
        if self.local:  # not url_to_fs: it takes a "::" in a folder's name for a chain of filesystems
            self.fs, self._base = LocalFileSystem(), self.root.removeprefix("file://")
        else:
            self.fs, self._base = open_store(self.root)

    def path(self, relative: str) -> str:
        """Path of a file as this lake's filesystem names it."""
        return f"{self._base}/{relative}"

    def url(self, relative: str) -> str:
        """Path of a file as a user or DuckDB names it: absolute locally, a URL elsewhere."""
        return self.path(relative) if self.local else f"{self.root.removesuffix('/')}/{relative}"

    def exists(self, relative: str) -> bool:
        """Whether the file is there now (never from a cached listing)."""
        self._forget_listing(relative)
        return bool(self.fs.exists(self.path(relative)))

    def size(self, relative: str) -> int | None:
        """Length of the file in bytes; None where there is none."""
        self._forget_listing(relative)
        try:
            return int(self.fs.info(self.path(relative))["size"])
        except FileNotFoundError:
            return None

    def modified(self, relative: str) -> float | None:
        """When the file was written, in seconds since 1970; None where there is none, or its store does not tell."""
        self._forget_listing(relative)
        try:
            return float(self.fs.modified(self.path(relative)).timestamp())
        except (FileNotFoundError, NotImplementedError):
            return None

    def find(self, folder: str) -> list[str]:
        """All files under a folder, at any depth, as they are now: relative to the root, sorted."""
        base = self.path(folder).rstrip("/")
        self.fs.invalidate_cache(base)
        return sorted(name.removeprefix(self.path("")) for name in self.fs.find(base) if name.startswith(f"{base}/"))

    def list_after(self, folder: str, name: str) -> list[str]:
        """Names of the entries in a folder that sort behind a name; on S3 nothing else is listed."""
        if name and is_s3(self.fs):
            return list_objects_after(self.fs, self.path(folder), name)
        return [each for each in self.list(folder) if each > name]

    def list(self, folder: str) -> list[str]:
        """Names of the entries in a folder, sorted; empty where there is no such folder."""
        base = self.path(folder).rstrip("/")
        self.fs.invalidate_cache(base)
        try:
            entries = [name.rstrip("/") for name in self.fs.ls(base, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        # an object store may list a folder's own marker
        return sorted({name.rsplit("/", 1)[-1] for name in entries if name != base})

    def stamp(self, relative: str) -> str | None:
        """What tells a file from another one that stands in its place later; None where there is none."""
        self._forget_listing(relative)
        try:
            info = self.fs.info(self.path(relative))
        except FileNotFoundError:
            return None
        told = info.get("ETag") or info.get("etag") or (info.get("mtime") or info.get("created"), info.get("ino"))
        return f"{info['size']} {told}"

    def sizes(self, folder: str) -> dict[str, int]:
        """Lengths in bytes of the files in a folder, by name; empty where there is no such folder."""
        base = self.path(folder).rstrip("/")
        self.fs.invalidate_cache(base)
        try:
            entries = self.fs.ls(base, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {each["name"].rsplit("/", 1)[-1]: int(each["size"] or 0) for each in entries if each["type"] == "file"}

    def read(self, relative: str) -> bytes:
        """The whole file, as it is now. Raises FileNotFoundError."""
        return cast(bytes, self.fs.cat_file(self.path(relative)))

    def read_range(self, relative: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`: one range request. Raises FileNotFoundError."""
        if self.local:
            with open(self.path(relative), "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        return cast(bytes, self.fs.cat_file(self.path(relative), start=offset, end=offset + length))

    def open(self, relative: str) -> BinaryIO:
        """The file, opened to read. Raises FileNotFoundError."""
        self._forget_listing(relative)  # a cached size would cut or pad a file that was replaced
        return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))

    def write(self, relative: str, data: bytes) -> None:
        """Put a file in place, whole or not at all, over what was there."""
        if not self.local:
            self.fs.pipe_file(self.path(relative), data)
            return
        with self.scratch() as temporary:
            temporary.write_bytes(data)
            self.put(temporary, relative)

    def create(self, relative: str, data: bytes) -> bool:
        """Put a file in place only if there is none: False when somebody else was first."""
        if not self.local:
            path = self.path(relative)
            return claim(self.fs, path, partial(self.fs.pipe_file, path, data))
        with self.scratch() as temporary:
            temporary.write_bytes(data)
            return self.put(temporary, relative, exclusive=True)

    @contextmanager
    def place(self, relative: str) -> Iterator[Path]:
        """Give a local scratch file to write; when the block ends well it becomes `relative`, atomically."""
        with self.scratch() as temporary:
            yield temporary
            self.put(temporary, relative)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Name a local scratch file to write and `put`, removed afterwards; on a local lake, on its own filesystem.

        Raises:
            LakeFull: the block ran out of room.
        """
        folder = self._scratch()
        temporary = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield temporary
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise LakeFull(folder) from None
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, file: Path, relative: str, *, exclusive: bool = False) -> bool:
        """Make a finished scratch file `relative`, atomically.

        Args:
            file: what `scratch` named; it may be gone afterwards.
            relative: its name in the lake.
            exclusive: only if there is none yet; else what is there is replaced.

        Returns:
            False when it was to be exclusive, and there is one.
        """
        target = self.path(relative)
        if not self.local:
            if exclusive:
                return claim(self.fs, target, partial(self.fs.put_file, str(file), target))
            self.fs.put_file(str(file), target)
            return True
        _sync(file)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        if not exclusive:
            file.replace(target)
            return True
        try:
            os.link(file, target)
        except FileExistsError:
            return _same_file(file, target)
        return True

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
            with suppress(FileNotFoundError):  # its writer, or another cleaner, was faster
                if time.time() - file.stat().st_mtime > _STRAY_AGE_SECONDS:
                    file.unlink()

    def read_table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file as a table. Raises FileNotFoundError."""
        return parquet_file(self.read(relative)).read(columns=None if columns is None else [*columns])

    def read_columns(
        self, paths: Sequence[str], schema: pa.Schema, columns: Sequence[str], where: pc.Expression | None = None
    ) -> pa.Table:
        """Columns of many Parquet files as one table; a column `__filename` names `path` of the file a row is from.

        Raises:
            FileNotFoundError: one of them is gone.
        """
        if not paths:
            return pa.table({name: pa.array([], _type(schema, name)) for name in columns})
        full = [self.path(path) for path in paths]
        if not self.local:
            return read_columns(full, self.fs.cat_file, schema, columns, where)
        files = ds.dataset(full, schema=schema, filesystem=self.fs, format="parquet")
        return files.to_table(columns=[*columns], filter=where)

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and all under it; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            if self.local:
                shutil.rmtree(self.path(folder))
            else:
                self.fs.rm(self.path(folder), recursive=True)

    def remove_empty_folder(self, folder: str) -> None:
        """Delete a folder on a disk if nothing is in it; an object store has none."""
        if self.local:
            with suppress(OSError):
                Path(self.path(folder)).rmdir()

    def _scratch(self) -> Path:
        if self.local:
            return Path(self.path(".scratch"))
        return Path(tempfile.gettempdir()) / f"caption-assets-scratch-{os.getuid()}"

    def _forget_listing(self, relative: str) -> None:
        self.fs.invalidate_cache(self.path(relative).rsplit("/", 1)[0])


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _same_file(file: Path, target: str) -> bool:
    """Whether a link that "exists already" is our own: NFS repeats a request whose answer was lost."""
    try:
        return file.samefile(target)
    except FileNotFoundError:
        return False


def _type(schema: pa.Schema, column: str) -> pa.DataType:
    return schema.field(column).type if column in schema.names else pa.string()


def table_bytes(table: pa.Table) -> bytes:
    """A table as one zstd-compressed Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return cast(bytes, sink.getvalue().to_pybytes())
