"""Which messages of a shard's pictures Kafka has."""

from __future__ import annotations

from collections.abc import Iterable

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake

_BYTES = 8
"""Of an id: a shard has thousands of messages, and 64 bits are too many for two of them to share."""


class Published:
    """The ids of a shard's messages that were delivered, as the lake has them."""

    def __init__(self, lake: Lake, shard: Shard) -> None:
        self._lake, self._path = lake, layout.published_file(shard)
        try:
            content = lake.read(self._path)
        except FileNotFoundError:
            content = b""
        self._ids = {content[start : start + _BYTES] for start in range(0, len(content), _BYTES)}
        self._new = False

    def has(self, id_: str) -> bool:
        """Whether a message was delivered."""
        return _short(id_) in self._ids

    def add(self, ids: Iterable[str]) -> None:
        """Note that messages were delivered."""
        short = {_short(each) for each in ids} - self._ids
        self._new = self._new or bool(short)
        self._ids |= short

    def save(self) -> None:
        """Put it into the lake, if there is anything new."""
        if self._new:
            self._lake.write(self._path, b"".join(sorted(self._ids)))
            self._new = False


def _short(id_: str) -> bytes:
    return bytes.fromhex(id_)[:_BYTES]
