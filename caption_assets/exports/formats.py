"""The export formats: each writes one file a shard and is committed whole.

- `webdataset`: TAR with `<media_id>.<ext>` and `<media_id>.json`, for the webdataset library.
- `jsonl`: one JSON object a line, for `datasets.load_dataset("json")`; pictures by reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.exports.samples import Sample, read_samples
from caption_assets.lake import layout
from caption_assets.lake.departures import hidden
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.segment import SegmentWriter
from caption_assets.media.shard import read_picture


@dataclass(frozen=True)
class Exported:
    """What an export of a dataset wrote."""

    files: list[str]
    samples: int
    location: str


@dataclass(frozen=True)
class Format:
    """An export format: a file suffix, and how to write samples to a local file; returns how many."""

    name: str
    suffix: str
    write: Callable[[Lake, Iterable[Sample], Path], int]


def export_dataset(
    lake: Lake,
    dataset: str,
    shards: Sequence[Shard],
    bound: Mapping[str, BoundPerspective],
    format_: Format,
    *,
    retain: bool = False,
) -> Exported:
    """Export all shards of a dataset; files of shards that are gone are removed.

    Args:
        retain: whether pictures that are gone from their source are exported, too.
    """
    away = hidden(lake, dataset, retain=retain)
    folder = layout.export_folder(format_.name, dataset)
    files: list[str] = []
    samples = 0
    for shard in shards:
        name = f"{shard.key}{format_.suffix}"
        found = read_samples(lake, shard, bound, away)
        first = next(found, None)
        if first is None:
            continue  # an empty TAR or JSONL file stops some readers
        with lake.place(f"{folder}/{name}") as file:
            samples += format_.write(lake, chain([first], found), file)
        files.append(name)
    for name in set(lake.list(folder)) - set(files):
        lake.remove(f"{folder}/{name}")
    return Exported(files, samples, lake.url(folder))


def exports_of(lake: Lake, datasets: Collection[str]) -> list[str]:
    """Where the exports of these datasets are that were made so far."""
    folders = (layout.export_folder(name, dataset) for name in lake.list("exports") for dataset in sorted(datasets))
    return [lake.url(folder) for folder in folders if lake.list(folder)]


def _write_webdataset(lake: Lake, samples: Iterable[Sample], file: Path) -> int:
    count = 0
    with SegmentWriter(file) as segment:
        for sample in samples:
            segment.add(sample.media["member"], read_picture(lake, sample.media))
            segment.add_json(f"{sample.media['media_id']}.json", sample.record())
            count += 1
    return count


def _write_jsonl(lake: Lake, samples: Iterable[Sample], file: Path) -> int:
    del lake
    count = 0
    with file.open("w", encoding="utf-8") as lines:
        for sample in samples:
            lines.write(json.dumps(sample.record(), ensure_ascii=False) + "\n")
            count += 1
    return count


FORMATS = (Format("webdataset", ".tar", _write_webdataset), Format("jsonl", ".jsonl", _write_jsonl))
