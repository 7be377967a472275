"""What every export writes: one sample a picture, with all its current captions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caption_assets.captioning import rows
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.stored import key_of, read_index
from caption_assets.perspectives import from_arrow_value


@dataclass(frozen=True)
class Sample:
    """A picture's media row and its outputs by perspective."""

    media: dict[str, Any]
    captions: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """The sample as JSON, the picture's bytes aside."""
        media = self.media
        return {
            "media_id": media["media_id"],
            "uri": media["uri"],
            "width": media["width"],
            "height": media["height"],
            "dataset": media["dataset"],
            "shard": media["shard"],
            "source": json.loads(media["source"] or "{}"),
            "captions": self.captions,
        }


def read_samples(
    lake: Lake,
    shard: Shard,
    bound: Mapping[str, BoundPerspective],
    away: Collection[tuple[str, str]] = frozenset(),
) -> Iterator[Sample]:
    """The distinct pictures of a shard that have at least one caption, in the plan's order.

    Args:
        away: (uri, etag) of items that are gone from their source, and left out.
    """
    stored = {name: rows.read_rows(lake, each, shard, ["output"]) for name, each in bound.items()}
    seen: set[str] = set()
    for media in read_index(lake, shard):
        media_id = media["media_id"]
        if media_id in seen or key_of(media) in away:
            continue
        seen.add(media_id)
        captions = {
            name: from_arrow_value(each.output, stored[name][media_id]["output"])
            for name, each in bound.items()
            if media_id in stored[name]
        }
        if captions:
            yield Sample(media, captions)
