"""Removes the rows of deleted pictures from the files of captions and of their failures."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_at_once

_MEDIA_ID = pa.schema([("media_id", pa.string())])


def erase(lake: Lake, media_ids: Collection[str], shard: Shard | None = None) -> int:
    """Remove these pictures' rows from all captions and caption failures, of every fingerprint.

    Each file is replaced whole, or removed with its last row. A file that a run seals away meanwhile is not waited for:
    what a run writes after the tombstone, it looks through itself.

    Args:
        media_ids: those of deleted pictures.
        shard: look only at its files; default: at the whole lake's.

    Returns:
        How many rows went.
    """
    if not media_ids:
        return 0
    doomed = pa.array(sorted(media_ids), pa.string())
    return sum(_without(lake, path, doomed) for path in _holding(lake, shard, doomed))


def count_rows(lake: Lake, media_ids: Collection[str]) -> int:
    """How many caption rows these pictures have, in all forms and shards."""
    doomed = pa.array(sorted(media_ids), pa.string())
    return sum(count for path, count in _holding(lake, None, doomed).items() if path.startswith("captions/"))


@again_at_once
def _holding(lake: Lake, shard: Shard | None, doomed: pa.Array) -> dict[str, int]:
    """The files with rows of these pictures, and how many."""
    if not (paths := caption_files(lake, shard)):
        return {}
    found = lake.read_columns(paths, _MEDIA_ID, ["__filename"], pc.field("media_id").isin(doomed))
    named = {lake.path(path): path for path in paths}
    counted = found["__filename"].value_counts().to_pylist()
    return {named[each["values"]]: each["counts"] for each in counted}


def caption_files(lake: Lake, shard: Shard | None) -> list[str]:
    """The files of captions and of their failures: of one shard, or of all."""
    stages = [f"failures/{stage}" for stage in lake.list("failures") if stage != "stage=media"]
    if shard is None:
        return [path for folder in ("captions", *stages) for path in lake.find(folder) if path.endswith(".parquet")]
    failures = [layout.failures_file(stage.removeprefix("failures/stage="), shard) for stage in stages]
    names = (entry.removeprefix("perspective=") for entry in lake.list("captions"))
    folders = (
        layout.captions_folder(name, form.removeprefix("fingerprint="), shard)
        for name in names
        for form in lake.list(f"captions/perspective={name}")
    )
    parts = [f"{folder}/{name}" for folder in folders for name in lake.list(folder) if name.endswith(".parquet")]
    return [*parts, *(path for path in failures if lake.exists(path))]


def _without(lake: Lake, path: str, doomed: pa.Array) -> int:
    try:
        table = lake.read_table(path)
    except FileNotFoundError:
        return 0
    kept = table.filter(pc.invert(pc.is_in(table["media_id"], doomed)))
    if kept.num_rows:
        lake.write(path, table_bytes(kept))
    else:
        lake.remove(path)
    return int(table.num_rows - kept.num_rows)
