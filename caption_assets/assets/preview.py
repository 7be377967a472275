"""Previews for the UI: thumbnails, with captions beside them, as Markdown."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from caption_assets.captioning import rows
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.perspectives import from_arrow_value

_PICTURES = 4
_SIDE = 96
_TEXT = 400


def media_preview(lake: Lake, shard: Shard) -> str:
    """The first pictures of a shard, side by side."""
    return " ".join(_thumbnail(lake, row) for row in _first(read_index(lake, shard)))


def caption_preview(lake: Lake, shard: Shard, bound: BoundPerspective) -> str:
    """The first pictures of a shard with what a perspective says of them, as a table."""
    pictures = _first(read_index(lake, shard))
    wanted = {row["media_id"] for row in pictures}
    stored = rows.read_rows(lake, bound, shard, ["output"])
    lines = ["| picture | output |", "|---|---|"]
    for row in pictures:
        caption = stored.get(row["media_id"]) if row["media_id"] in wanted else None
        text = _text(from_arrow_value(bound.perspective, caption["output"])) if caption else "*no caption*"
        lines.append(f"| {_thumbnail(lake, row)} | {text} |")
    return "\n".join(lines)


def _first(index: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({row["media_id"]: row for row in index}.values())[:_PICTURES]


def _thumbnail(lake: Lake, row: dict[str, Any]) -> str:
    try:
        with Image.open(io.BytesIO(read_picture(lake, row))) as image:
            small = image.convert("RGB")
    except (OSError, ValueError):
        return "(unreadable)"
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"![picture](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def _text(output: dict[str, Any]) -> str:
    """An output in one table cell: fields in bold, text that cannot break the table."""
    parts = []
    for name, value in output.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"**{name}** {text}")
    joined = "<br>".join(parts)
    cut = joined if len(joined) <= _TEXT else joined[: _TEXT - 1] + "…"
    return cut.replace("|", "\\|").replace("\n", " ")
