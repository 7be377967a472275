"""Previews for the UI: thumbnails, with captions beside them, as Markdown.

Dagster's UI shows GitHub's Markdown with `data:` pictures, and drops every HTML tag, `<br>` included.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import duckdb
from PIL import Image

from caption_assets.captioning import rows
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.duplicates.pairs import Close
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.perspectives import from_arrow_value

_PICTURES = 4
_SIDE = 96
_TEXT = 300
_OF_HASHES = """
WITH pictures AS (
    SELECT phash, media_id, uri, dataset, segment, "offset", length FROM media WHERE list_contains($1, phash)
    QUALIFY row_number() OVER (PARTITION BY media_id ORDER BY created_at DESC, shard, uri) = 1
)
SELECT *, row_number() OVER (PARTITION BY phash ORDER BY media_id) AS number FROM pictures QUALIFY number <= 2
"""
"""Two pictures of each hash."""
_MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|<>~&]")


def media_preview(lake: Lake, shard: Shard) -> str:
    """The first pictures of a shard, side by side."""
    return " ".join(_thumbnail(lake, row) for row in _first(read_index(lake, shard)))


def caption_preview(lake: Lake, shard: Shard, bound: BoundPerspective) -> str:
    """The first pictures of a shard with what a perspective says of them: a table with a column a field."""
    pictures = _first(read_index(lake, shard))
    stored = rows.read_rows(lake, bound, shard, ["output"])
    outputs = {
        row["media_id"]: from_arrow_value(bound.output, stored[row["media_id"]]["output"])
        for row in pictures
        if row["media_id"] in stored
    }
    fields = list(next(iter(outputs.values()), {"caption": None}))
    lines = [_line("picture", *(_cell(name) for name in fields)), _line("---", *("---" for _ in fields))]
    for row in pictures:
        output = outputs.get(row["media_id"])
        cells = [_cell(output[name]) or "–" for name in fields] if output else ["*nothing yet*"]
        lines.append(_line(_thumbnail(lake, row), *cells))
    return "\n".join(lines)


def near_preview(lake: Lake, views: duckdb.DuckDBPyConnection, closest: Sequence[Close]) -> str:
    """The closest pairs of hashes, each with a picture of either side."""
    hashes = sorted({phash for close in closest for phash in (close.phash_a, close.phash_b)})
    found = views.sql(_OF_HASHES, params=[hashes]).to_arrow_table().to_pylist()
    pictures = {(row["phash"], row["number"]): row for row in found}
    lines = [_line("distance", "picture", "", "near duplicate", ""), _line(*["---"] * 5)]
    for close in closest:
        same = close.phash_a == close.phash_b
        sides = [pictures.get((close.phash_a, 1)), pictures.get((close.phash_b, 2 if same else 1))]
        cells = [cell for row in sides if row for cell in (_thumbnail(lake, row), _cell(row["uri"]))]
        if len(cells) == 4:  # else a shard was made anew in between
            lines.append(_line(str(close.distance), *cells))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


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


def _cell(value: Any) -> str:
    """A value as the text of one cell. What a model wrote is text: nothing in it is markup, least of all a link."""
    text = " ".join(_plain(value).split())
    cut = text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
    return _MARKUP.sub(r"\\\g<0>", cut)


def _plain(value: Any) -> str:
    """A value as a person would note it down: lists with commas, records as names and values."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        nested = any(isinstance(each, dict | list) for each in value)
        return ("; " if nested else ", ").join(_plain(each) for each in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
