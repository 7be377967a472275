"""Pictures on their way to the engine: read ahead by a few threads, decoded where the engine wants pixels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from PIL import Image

from caption_assets.captioning.asking import decoded, unreadable
from caption_assets.captioning.work import PictureWork, Row
from caption_assets.lake.store import Lake
from caption_assets.media.stored import read_close_together

Stored = Image.Image | bytes
_FILES_TOGETHER = 8
"""Files in one errand: to send a thread for each takes longer than to read it."""


class ReadAhead:
    """A picture that is being read, or is there for as long as a perspective may still look at it.

    Args:
        size: bytes that it takes in memory.
        lookers: perspectives that look at it.
        read: where it is put; None where nobody looks.
    """

    def __init__(self, size: int, lookers: int, read: asyncio.Future[Stored] | None) -> None:
        self._size, self._lookers, self._read = size, lookers, read

    async def image(self) -> Stored:
        """The pixels, or the file. Raises AskFailure where it cannot be read."""
        assert self._read is not None
        try:
            return self._read.result() if self._read.done() else await asyncio.shield(self._read)
        except (OSError, ValueError, SyntaxError) as error:
            raise unreadable(error) from None

    def looked(self) -> int:
        """One perspective has looked; returns the bytes that are free now."""
        self._lookers -= 1
        if self._lookers:
            return 0
        self._read = None
        return self._size


class PictureReader:
    """Reads pictures in other threads.

    Args:
        threads: those that read.
        pixels: whether pictures are decoded; else they stay the files that are stored.
        wait_for_core: called before one is decoded.
    """

    def __init__(
        self, lake: Lake, threads: Executor, *, pixels: bool, wait_for_core: Callable[[], None] = lambda: None
    ) -> None:
        self._lake, self._threads, self._pixels, self._wait_for_core = lake, threads, pixels, wait_for_core
        self.together = 1 if pixels else _FILES_TOGETHER
        """How many to read in one errand."""
        self.held = 0
        """Bytes of all pictures that are read, or being read, and still looked at."""

    def start(self, pictures: Sequence[PictureWork]) -> list[ReadAhead]:
        """Have pictures read, one after the other, where a pending perspective looks at them."""
        loop = asyncio.get_running_loop()
        found: list[ReadAhead] = []
        wanted: list[tuple[Row, asyncio.Future[Stored]]] = []
        for picture in pictures:
            lookers = sum(each.perspective.image for each in picture.pending)
            if not lookers:
                found.append(ReadAhead(0, 0, None))
                continue
            size = self._size(picture.media)
            self.held += size
            wanted.append((picture.media, loop.create_future()))
            found.append(ReadAhead(size, lookers, wanted[-1][1]))
        if wanted:
            reading = loop.run_in_executor(self._threads, self._read, [media for media, _ in wanted])
            reading.add_done_callback(lambda done: _hand_out(done, [future for _, future in wanted]))
        return found

    def looked(self, ahead: ReadAhead) -> None:
        """One perspective has looked at a picture."""
        self.held -= ahead.looked()

    def _size(self, media: Row) -> int:
        # Pillow pads RGB to 4 bytes
        return int(4 * media["width"] * media["height"] if self._pixels else media["length"])

    def _read(self, media: Sequence[Row]) -> list[Stored | Exception]:
        return [self._as_wanted(stored) for stored in read_close_together(self._lake, media)]

    def _as_wanted(self, stored: bytes | Exception) -> Stored | Exception:
        if isinstance(stored, Exception) or not self._pixels:
            return stored
        self._wait_for_core()
        try:
            return decoded(stored)
        except Exception as error:
            return error


def _hand_out(done: asyncio.Future[list[Stored | Exception]], futures: Sequence[asyncio.Future[Stored]]) -> None:
    """Put what was read where it is awaited."""
    if done.cancelled():
        for future in futures:
            future.cancel()
        return
    for future, read in zip(futures, done.result(), strict=True):
        if future.cancelled():
            continue
        if isinstance(read, Exception):
            future.set_exception(read)
        else:
            future.set_result(read)
