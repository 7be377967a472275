"""Moves captions and their failures from shard to shard: all forms, each row as it was but for the shard's key."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import Merge
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_at_once


def copy_captions(lake: Lake, merge: Merge) -> int:
    """Write the parts' captions as the successor's, a file a form; returns how many rows.

    Of a picture that several parts have, they say the same: the row that was paid for is taken, not its copies.
    """
    copied = 0
    for name, form in _forms(lake):
        tables = [table for part in merge.parts if (table := _read(lake, name, form, part)[0]) is not None]
        path = f"{layout.captions_folder(name, form, merge.successor)}/sealed-merge-{merge.merge_id}.parquet"
        if not tables:
            lake.remove(path)  # of an earlier try
            continue
        table = pa.concat_tables(tables, promote_options="default")
        order = pc.sort_indices(
            table.append_column("copy", pc.is_valid(table["reused_from"])),
            [("media_id", "ascending"), ("copy", "ascending"), ("created_at", "ascending")],
        )
        one = _first_of_each(table.take(order))
        lake.write(path, table_bytes(with_shard(one, merge.successor)))
        copied += one.num_rows
    return copied


def copy_failures(lake: Lake, merge: Merge) -> None:
    """Write the parts' caption failures as the successor's, but for pictures that have a caption of the same form."""
    for stage in _stages(lake):
        tables = [_failures(lake, stage, part) for part in merge.parts]
        found = [table for table in tables if table is not None]
        path = layout.failures_file(stage, merge.successor)
        if not found:
            lake.remove(path)
            continue
        rows: dict[tuple[str, str], int] = {}
        table = with_shard(pa.concat_tables(found, promote_options="default"), merge.successor)
        for number, key in enumerate(zip(table["media_id"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)):
            rows.setdefault(key, number)
        captioned = {form: _media_ids(lake, stage, form, merge.successor) for form in {form for _, form in rows}}
        kept = [number for (media_id, form), number in rows.items() if media_id not in captioned[form]]
        lake.write(path, table_bytes(table.take(pa.array(kept, pa.int64()))))


def carry_captions(lake: Lake, part: Shard, successor: Shard) -> int:
    """Give the successor what runs wrote for a part after it was merged, and remove the part's captions.

    Returns:
        How many rows the successor lacked, or had older ones of that say something else.
    """
    carried = 0
    for name, form in _forms(lake):
        folder = layout.captions_folder(name, form, part)
        table, files = _read(lake, name, form, part)
        if table is not None:
            known = _written(_read(lake, name, form, successor)[0])
            late = [
                number
                for number, (media_id, (created_at, output)) in enumerate(_written(table).items())
                if media_id not in known or (created_at > known[media_id][0] and output != known[media_id][1])
            ]
            if late:
                path = f"{layout.captions_folder(name, form, successor)}/part-merge-{uuid.uuid4().hex[:12]}-0.parquet"
                lake.write(path, table_bytes(with_shard(table.take(pa.array(late, pa.int64())), successor)))
                carried += len(late)
        for file in files:
            lake.remove(f"{folder}/{file}")
        lake.remove_empty_folder(folder)
    return carried


def captioned_shards(lake: Lake, dataset: str) -> set[str]:
    """The keys of a dataset's shards that have a folder of captions."""
    folders = (f"{layout.fingerprint_folder(name, form)}/dataset={dataset}" for name, form in _forms(lake))
    return {entry.removeprefix("shard=") for folder in folders for entry in lake.list(folder)}


def remove_failures(lake: Lake, part: Shard) -> None:
    """Remove a merged shard's failures, those of its media included."""
    for stage in ("media", *_stages(lake)):
        lake.remove(layout.failures_file(stage, part))


def with_shard(table: pa.Table, shard: Shard) -> pa.Table:
    """The same rows under another shard's key."""
    column = table.column_names.index("shard")
    return table.set_column(column, "shard", pa.array([shard.key] * table.num_rows, pa.string()))


def _forms(lake: Lake) -> Iterator[tuple[str, str]]:
    """All perspectives and fingerprints that the lake has."""
    for entry in lake.list("captions"):
        for form in lake.list(f"captions/{entry}"):
            yield entry.removeprefix("perspective="), form.removeprefix("fingerprint=")


def _stages(lake: Lake) -> list[str]:
    stages = (entry.removeprefix("stage=") for entry in lake.list("failures"))
    return [stage for stage in stages if stage not in {"_", "media"}]


@again_at_once
def _read(lake: Lake, name: str, form: str, shard: Shard) -> tuple[pa.Table | None, list[str]]:
    """A shard's rows of a form, the latest of each picture, None where there are none; and the names of its files."""
    folder = layout.captions_folder(name, form, shard)
    files = [each for each in lake.list(folder) if each.endswith(".parquet")]
    tables = [lake.read_table(f"{folder}/{each}") for each in files]
    table = pa.concat_tables(tables, promote_options="default") if tables else None
    if table is None or not table.num_rows:
        return None, files
    order = pc.sort_indices(table, [("media_id", "ascending"), ("created_at", "descending")])
    return _first_of_each(table.take(order)), files


def _first_of_each(table: pa.Table) -> pa.Table:
    """The first row of each picture, of a table that has them together."""
    media_ids: Sequence[str] = table["media_id"].to_pylist()
    firsts = [number for number, each in enumerate(media_ids) if not number or media_ids[number - 1] != each]
    return table.take(pa.array(firsts, pa.int64()))


def _written(table: pa.Table | None) -> dict[str, tuple[datetime, str]]:
    """When each picture's row was written, and its output's digest, in the table's order."""
    if table is None:
        return {}
    media_ids, times, outputs = (table[name].to_pylist() for name in ("media_id", "created_at", "output_digest"))
    return dict(zip(media_ids, zip(times, outputs, strict=True), strict=True))


def _media_ids(lake: Lake, name: str, form: str, shard: Shard) -> set[str]:
    return set(_written(_read(lake, name, form, shard)[0]))


def _failures(lake: Lake, stage: str, shard: Shard) -> pa.Table | None:
    try:
        return lake.read_table(layout.failures_file(stage, shard))
    except FileNotFoundError:
        return None
