"""Segments: WebDataset TAR files whose members can be read by offset.

Members are `<media_id>.<ext>`, `<media_id>.original.<ext>` where originals are kept, and `<media_id>.json`: plain USTAR
with fixed metadata, so that the same pictures always give the same bytes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from caption_assets.media.text import sorted_json
from caption_assets.sources.spool import Body, pieces

_BLOCK = tarfile.BLOCKSIZE
_JPEG_FORMATS = frozenset({"JPEG", "MPO"})
_MODE = 0o644
_BUFFER = 1 << 20
"""Bytes that are written at once: while a file is written to, other threads want the interpreter."""
_SYNCED = 1 << 24
"""Bytes that go to the disk at once."""
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 156)
"""Fields of a header (POSIX.1-1988, ustar), the zero behind a number not included."""


class SegmentWriter:
    """Writes one segment to a local file.

    Args:
        path: the file, which is created or replaced.
        to_disk: whether it is brought to the disk as it grows, beside the work, so that to make it durable in the end
            is not to wait for all of it.
    """

    def __init__(self, path: Path, *, to_disk: bool = False) -> None:
        self._file = path.open("wb", buffering=_BUFFER)
        self._offset = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk") if to_disk else None
        self._syncing: Future[None] = Future()
        self._syncing.set_result(None)
        self._synced = 0

    def add(self, name: str, data: Body) -> int:
        """Append a member and return the offset of its data in the file.

        Raises:
            ValueError: the name is too long for USTAR.
        """
        for part in chain((_header(name, len(data)),), pieces(data), (bytes(-len(data) % _BLOCK),)):
            self._file.write(part)
        offset = self._offset + _BLOCK
        self._offset = offset + len(data) + -len(data) % _BLOCK
        if self._disk and self._offset - self._synced >= _SYNCED and self._syncing.done():
            self._syncing.result()  # raises what a disk has to say
            self._syncing, self._synced = self._disk.submit(os.fsync, self._file.fileno()), self._offset
        return offset

    def add_json(self, name: str, value: dict[str, Any]) -> int:
        """Append a JSON member."""
        return self.add(name, sorted_json(value).encode())

    def add_picture(
        self, row: Mapping[str, Any], data: Body, extension: str, original: Body | None = None
    ) -> dict[str, Any]:
        """Append a picture, its original if that is to be kept, and its record.

        An original that is stored as it came, and so is the same object, is not stored twice: its offset is then the
        picture's.

        Args:
            row: its media row: media_id, uri, width, height, and the original's format.
            data: the bytes to store under `extension`.
            original: the bytes that the media_id is of.

        Returns:
            The index columns that say where they are.
        """
        media_id = row["media_id"]
        member = f"{media_id}.{extension}"
        offset = self.add(member, data)
        place: dict[str, Any] = {"member": member, "offset": offset, "length": len(data)}
        if original is not None:
            name = f"{media_id}.original.{original_extension(row['format'])}"
            place["original_offset"] = offset if original is data else self.add(name, original)
            place["original_length"] = len(original)
        self.add_json(f"{media_id}.json", {name: row[name] for name in ("media_id", "uri", "width", "height")})
        return place

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if self._disk:
                self._disk.shutdown()
            if error is None:
                self._syncing.result()
                end = 2 * _BLOCK  # empty blocks, filled up to a whole record, as tar does
                self._file.write(bytes(end + -(self._offset + end) % tarfile.RECORDSIZE))


def _header(name: str, size: int) -> bytes:
    """A member's header: one block, whatever the name. Raises ValueError: the name is too long for USTAR."""
    if not name.isascii() or len(name) > _NAME.stop or size >= 1 << 33:
        return _any_header(name, size)
    header = bytearray(_TEMPLATE)
    header[: len(name)] = name.encode()
    header[_SIZE] = b"%011o" % size
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


def _any_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = _MODE
    return info.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = _any_header("", 0)
"""What is the same in all headers: tarfile takes longer for one than for the picture's bytes."""


def original_extension(format_name: str) -> str:
    """The extension of an original, by its true format as Pillow names it, whatever its file was called."""
    return "jpg" if format_name in _JPEG_FORMATS else format_name.lower()
