"""What is read of a body: small ones stay in memory, big ones go to a temporary file that has no name."""

from __future__ import annotations

import io
import tempfile
from typing import IO

from caption_assets.sources.base import FetchError

IN_MEMORY = 2_000_000
"""Bytes of a body that stay in memory: dozens of bodies wait at once."""


class Spool:
    """A body being read, or waiting to be handed over. Use it as a context: an error closes it, and only an error."""

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._size = 0

    def __enter__(self) -> Spool:
        """Itself."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Free what an error would hold on to."""
        if error is not None:
            self._file.close()

    def __len__(self) -> int:
        """Bytes written."""
        return self._size

    def write(self, data: bytes) -> None:
        """Append. Raises FetchError (unreadable): there is no room for temporary files."""
        try:
            if self._size + len(data) > IN_MEMORY and isinstance(self._file, io.BytesIO):
                memory, self._file = self._file, tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the body)
                with memory:
                    self._file.write(memory.getbuffer())
            self._file.write(data)
        except OSError as error:
            raise FetchError("unreadable", f"no temporary file for its body: {error.strerror}") from None
        self._size += len(data)

    def content(self) -> bytes | Spool:
        """The body: its bytes, or itself where they are not in memory."""
        if not isinstance(self._file, io.BytesIO):
            return self
        with self._file as memory:
            return memory.getvalue()  # without a copy

    def take(self) -> bytes:
        """All that was written, once. Raises FetchError (unreadable)."""
        try:
            with self._file as file:
                file.seek(0)
                return file.read()
        except OSError as error:
            raise FetchError("unreadable", f"its temporary file cannot be read: {error.strerror}") from None


Body = bytes | Spool
"""A body that was read."""
