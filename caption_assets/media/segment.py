"""Segments: WebDataset TAR files whose members can be read by offset.

Members are `<media_id>.<ext>` and `<media_id>.json`, plain USTAR with fixed metadata, so that the same pictures always
give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

_BLOCK = tarfile.BLOCKSIZE


class SegmentWriter:
    """Writes one segment to a local file.

    Args:
        path: the file, which is created or replaced.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (__exit__ closes it)

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its data in the file.

        Raises:
            ValueError: the name is too long for USTAR.
        """
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        offset = self._tar.offset + _BLOCK  # a USTAR header is one block, whatever the name
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def add_json(self, name: str, value: dict[str, Any]) -> int:
        """Append a JSON member."""
        return self.add(name, json.dumps(value, ensure_ascii=False, sort_keys=True).encode())

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
