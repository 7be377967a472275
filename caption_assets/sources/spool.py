"""What waits: bytes that were read or made and are not wanted yet.

Little of it stays in memory, however many things wait; the rest goes to temporary files that have no names.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Protocol

from caption_assets.sources.failures import FetchError

IN_MEMORY = 2_000_000
"""Bytes of one body that stay in memory: dozens of bodies wait at once."""
ALL_IN_MEMORY = 4_000_000
"""Bytes of all bodies of the process that stay in memory."""
LARGE = 32_000_000
"""Bytes of a body that is not held in memory to be worked on, unless it has to be."""
_PIECE = 1 << 20


class Bytes(Protocol):
    """A file's bytes, in memory or not: any slice of them can be had."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, place: slice, /) -> bytes:
        """Those from a place to another."""


class _Allowance:
    """How much of all that waits is in memory; for any thread."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether so many bytes more may stay in memory."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Take back what is no longer there."""
        with self._lock:
            self._left += size


_allowance = _Allowance(ALL_IN_MEMORY)


class Spool:
    """A body being written, or waiting to be handed over. Use it as a context: an error closes it, and only an error.

    Args:
        on_disk: whether none of it stays in memory.
    """

    def __init__(self, *, on_disk: bool = False) -> None:
        self._file: IO[bytes] = _temporary() if on_disk else io.BytesIO()
        self._size = self._allowed = 0

    @classmethod
    def of(cls, data: bytes) -> Spool:
        """A body that is all there. Raises FetchError (unreadable)."""
        with cls() as spool:
            spool.write(data)
            return spool

    def __enter__(self) -> Spool:
        """Itself."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Free what an error would hold on to."""
        if error is not None:
            self.close()

    def __del__(self) -> None:
        """What nobody asks for any more is not in memory."""
        self._release()

    def __len__(self) -> int:
        """Bytes written."""
        return self._size

    @property
    def on_disk(self) -> bool:
        """Whether it is not in memory."""
        return not isinstance(self._file, io.BytesIO)

    def write(self, data: bytes) -> None:
        """Append. Raises FetchError (unreadable): there is no room for temporary files."""
        try:
            if not self.on_disk and not self._allows(len(data)):
                self._move()
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from None
        self._size += len(data)

    def take(self) -> bytes:
        """All that was written, once. Raises FetchError (unreadable)."""
        with self:
            data = self._file.getvalue() if isinstance(self._file, io.BytesIO) else self.view()[:]  # without a copy
        self.close()
        return data

    def pieces(self) -> Iterator[bytes]:
        """All that was written, a megabyte at a time. Raises FetchError (unreadable)."""
        view = self.view()
        for start in range(0, self._size, _PIECE):
            yield view[start : start + _PIECE]

    def sha256(self) -> str:
        """The hash of all that was written, in hex. Raises FetchError (unreadable)."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def view(self) -> Bytes:
        """The bytes, read when they are asked for; nothing may be written any more."""
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        self._file.flush()
        return _View(self._file, self._size)

    def open(self) -> IO[bytes]:
        """The bytes as a file to read. Any number may be open; a Spool that is closed ends them."""
        view = self.view()
        return io.BytesIO(view) if isinstance(view, bytes) else io.BufferedReader(Part(view), _PIECE // 4)

    def close(self) -> None:
        """Forget the bytes."""
        self._file.close()
        self._release()

    def _allows(self, more: int) -> bool:
        if self._size + more > IN_MEMORY or not _allowance.take(more):
            return False
        self._allowed += more
        return True

    def _move(self) -> None:
        memory, self._file = self._file, _temporary()
        with memory:
            self._file.write(memory.getbuffer())  # type: ignore[attr-defined]
        self._release()

    def _release(self) -> None:
        allowed, self._allowed = getattr(self, "_allowed", 0), 0
        if allowed:
            _allowance.give(allowed)


def _temporary() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> FetchError:
    return FetchError("unreadable", f"no temporary file for its body: {error.strerror}")


class _View:
    """Bytes of a file, which are read anew whenever they are asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice, /) -> bytes:
        start, stop, _ = place.indices(self._size)
        parts, number = [], self._file.fileno()
        try:
            while start < stop and (part := os.pread(number, stop - start, start)):  # no more than 2 GB at once
                parts.append(part)
                start += len(part)
        except OSError as error:
            raise FetchError("unreadable", f"its temporary file cannot be read: {error.strerror}") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Placed(io.RawIOBase):
    """A file to read from any place, of so many bytes, which `_at` gives."""

    def __init__(self, size: int) -> None:
        self._size, self._place = size, 0

    def _at(self, place: int, count: int) -> bytes:
        """Bytes from a place within it on: `count`, or fewer, at least one."""
        raise NotImplementedError

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The next bytes, no more than the buffer has room for or than are left."""
        count = max(0, min(len(buffer), self._size - self._place))
        data = self._at(self._place, count) if count else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._place = max(0, place + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place


class Part(_Placed):
    """Bytes from one place to another, as a file of its own.

    Args:
        view: all of them.
        begin: the first place.
        end: the one behind the last; None: all that there are.
    """

    def __init__(self, view: Bytes, begin: int = 0, end: int | None = None) -> None:
        super().__init__(max(0, min(len(view), len(view) if end is None else end) - begin))
        self._view, self._begin = view, begin

    def _at(self, place: int, count: int) -> bytes:
        return self._view[self._begin + place : self._begin + place + count]


class Joined(_Placed):
    """Files one behind the other, as one. Their own places are of no account.

    Args:
        files: none of which grows.
    """

    def __init__(self, files: Sequence[io.RawIOBase | io.BufferedIOBase]) -> None:
        self._ends = [*itertools.accumulate(file.seek(0, io.SEEK_END) for file in files)]
        super().__init__(self._ends[-1])
        self._files = files

    def _at(self, place: int, count: int) -> bytes:
        number = bisect.bisect_right(self._ends, place)
        self._files[number].seek(place - (self._ends[number - 1] if number else 0))
        return self._files[number].read(min(count, self._ends[number] - place)) or b""


Body = bytes | Spool
"""A body that was read."""


def sha256(body: Body) -> str:
    """The hash of a body, in hex. Raises FetchError (unreadable)."""
    return body.sha256() if isinstance(body, Spool) else hashlib.sha256(body).hexdigest()


def pieces(body: Body) -> Iterator[bytes]:
    """A body, in the order of its bytes. Raises FetchError (unreadable)."""
    return body.pieces() if isinstance(body, Spool) else iter((body,))
