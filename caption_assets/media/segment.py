"""Segments: WebDataset TAR files whose members can be read by offset.

Members are `<media_id>.<ext>`, `<media_id>.original.<ext>` where originals are kept, and `<media_id>.json`: plain USTAR
with fixed metadata, so that the same pictures always give the same bytes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from caption_assets.sources.spool import Body, pieces

_BLOCK = tarfile.BLOCKSIZE
_JPEG_FORMATS = frozenset({"JPEG", "MPO"})


class SegmentWriter:
    """Writes one segment to a local file.

    Args:
        path: the file, which is created or replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._offset = 0

    def add(self, name: str, data: Body) -> int:
        """Append a member and return the offset of its data in the file.

        Raises:
            ValueError: the name is too long for USTAR.
        """
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        header = info.tobuf(tarfile.USTAR_FORMAT)  # one block, whatever the name
        for part in chain((header,), pieces(data), (bytes(-len(data) % _BLOCK),)):
            self._file.write(part)
        offset = self._offset + _BLOCK
        self._offset = offset + len(data) + -len(data) % _BLOCK
        return offset

    def add_json(self, name: str, value: dict[str, Any]) -> int:
        """Append a JSON member."""
        return self.add(name, json.dumps(value, ensure_ascii=False, sort_keys=True).encode())

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
        end = 2 * _BLOCK  # empty blocks, filled up to a whole record, as tar does
        self._file.write(bytes(end + -(self._offset + end) % tarfile.RECORDSIZE))
        self._file.close()


def original_extension(format_name: str) -> str:
    """The extension of an original, by its true format as Pillow names it, whatever its file was called."""
    return "jpg" if format_name in _JPEG_FORMATS else format_name.lower()
