"""Copies stored pictures from one segment to another: the same bytes under the same checksums, nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from caption_assets.lake.store import Lake
from caption_assets.media.segment import SegmentWriter
from caption_assets.media.stored import Row, damage, read_pictures


def copy_pictures(lake: Lake, rows: Sequence[Row], segment: SegmentWriter) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copy what is sound of the pictures of rows that share a segment: media_ids and the columns that say where."""
    try:
        for row, data, original in read_pictures(lake, rows):
            if not damage(row, data, original):
                yield row["media_id"], segment.add_picture(row, data, row["member"].rsplit(".", 1)[-1], original)
    except FileNotFoundError:
        return  # lost, or replaced by another run, which the index then says
