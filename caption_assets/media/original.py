"""A picture's file while it is worked on: in memory, or on disk while it is too big for that, or waits for its turn."""

from __future__ import annotations

import io
from typing import IO

from caption_assets.sources.spool import Body, Bytes, Spool, sha256


class Original:
    """The bytes of an item. Who has an `Original` must not keep its bytes elsewhere.

    Args:
        body: what its source gave.
    """

    def __init__(self, body: Body) -> None:
        self._body = body

    def __len__(self) -> int:
        return len(self._body)

    @property
    def in_memory(self) -> bool:
        """Whether all bytes are in memory, and count there."""
        return isinstance(self._body, bytes)

    def load(self) -> bytes:
        """Read it into memory. Raises FetchError (unreadable)."""
        if isinstance(self._body, Spool):
            self._body = self._body.take()
        return self._body

    def park(self) -> None:
        """Put it on disk. Raises FetchError (unreadable)."""
        if isinstance(self._body, bytes):
            with Spool(on_disk=True) as spool:
                spool.write(self._body)
            self._body = spool

    def view(self) -> Bytes:
        """Its bytes, wherever they are."""
        return self._body.view() if isinstance(self._body, Spool) else self._body

    def open(self) -> IO[bytes]:
        """A file to read, which sees the bytes where they are now."""
        return self._body.open() if isinstance(self._body, Spool) else io.BytesIO(self._body)

    def sha256(self) -> str:
        """The hash of its bytes, in hex. Raises FetchError (unreadable)."""
        return sha256(self._body)

    def waiting(self) -> Spool:
        """It, to be stored when its turn comes. Raises FetchError (unreadable)."""
        return self._body if isinstance(self._body, Spool) else Spool.of(self._body)
