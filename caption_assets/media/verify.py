"""Verification on request: every stored picture of a shard is read again and compared with what its row says."""

from __future__ import annotations

from dataclasses import dataclass, field

from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.stored import Row, damage, read_index, read_pictures

_LOST = "the segment is gone"
_TRIES = 3


@dataclass
class Verified:
    """What reading a shard's pictures again has shown."""

    shard: Shard
    pictures: int = 0
    """Distinct ones."""
    stored_bytes: int = 0
    """Bytes read, originals included."""
    damaged: dict[str, str] = field(default_factory=dict)
    """media_id → what is wrong with it."""
    rows: list[Row] = field(default_factory=list)
    """The media rows of damaged pictures, doubles included."""


def verify_shard(lake: Lake, shard: Shard) -> Verified:
    """Read a shard's segment from its front to its end, and compare each picture's SHA-256, and its original's."""
    for remaining in reversed(range(_TRIES)):
        index = read_index(lake, shard)
        try:
            return _compare(lake, shard, index)
        except FileNotFoundError:
            if not remaining or read_index(lake, shard) == index:
                break  # else a repair has replaced the segment under our eyes
    media_ids = dict.fromkeys(row["media_id"] for row in index)
    return Verified(shard, len(media_ids), 0, dict.fromkeys(media_ids, _LOST), index)


def _compare(lake: Lake, shard: Shard, index: list[Row]) -> Verified:
    verified = Verified(shard)
    for row, data, original in read_pictures(lake, index):
        verified.pictures += 1
        verified.stored_bytes += len(data)
        if original is not None and row["original_offset"] != row["offset"]:
            verified.stored_bytes += len(original)
        if wrong := damage(row, data, original):
            verified.damaged[row["media_id"]] = wrong
    verified.rows = [row for row in index if row["media_id"] in verified.damaged]
    return verified
