"""What status, a decision on re-captioning and the share of failures cost on a big lake: cold, warm, after changes.

`python -m caption_assets_tests.benchmarks.status [--shards N] [--counted N] [--perspectives N] [--rows N] [--plain]`.
The lake is made up: a plan, an index and a sealed file a perspective for each shard, of the right form and with digests
that fit, and failures in every hundredth shard. Each look is a process of its own, as ticks and commands are. Only the
last `--counted` shards are counted; what a first look would have kept of the others, which are alike, is copied, for
counting takes some 20 ms a shard. `--plain` also asks the catalog's views, which read every file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.captioning.catalog import open_counts, open_views
from caption_assets.captioning.open_work import find_done, find_open
from caption_assets.captioning.recaption import Budget, Decision, budget, decide, recaptioning, repair
from caption_assets.captioning.rows import input_digest, schema_of
from caption_assets.config import PipelineConfig, load_config
from caption_assets.config.alerts import Alerts
from caption_assets.counts.asked import Asked
from caption_assets.counts.counting import Counter
from caption_assets.counts.kept import KeptCounts
from caption_assets.counts.listing import YOUNG_SECONDS, list_lake
from caption_assets.counts.views import Masks, StillCounting
from caption_assets.events.conditions import too_many_failures, totals_of
from caption_assets.lake import layout, tables
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wanted, Wants, ensure_tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.normalise import normalisation_id
from caption_assets.perspectives import arrow_type
from caption_assets.status.reading import read_status
from caption_assets_tests import resident

_DATASET = "demo"
_FAILED = 100
"""A shard of so many has failures."""
_CHANGED = 20
_TICK_SECONDS = 40.0
_COPIED = 20_000
_SUM = "summary"


def pipeline(folder: Path, perspectives: int) -> Path:
    """A pipeline file of so many perspectives, one of which reads three others."""
    library = folder / "perspectives"
    library.mkdir(parents=True, exist_ok=True)
    names = [f"look_{number:02d}" for number in range(perspectives - 1)]
    for name in names:
        _perspective(library, name, "Say what is there.")
    _perspective(library, _SUM, "Sum up: " + " ".join(f"{{{name}}}" for name in names[:3]), names[:3])
    document = {
        "lake": "./lake",
        "datasets": {_DATASET: {"kind": "folder", "path": "./pictures"}},
        "perspectives": {"library": ["./perspectives"], "enabled": [*names, _SUM]},
        "engines": {"default": {"kind": "openai", "model": "m", "servers": ["http://127.0.0.1:9/v1"]}},
        "recaption": {"policy": "all"},
        "alerts": {"failure_share": 0.02},
    }
    (folder / "pictures").mkdir(exist_ok=True)
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def _perspective(library: Path, name: str, prompt: str, inputs: list[str] | None = None) -> None:
    fields = [{"name": "caption", "type": "str", "description": "What is there."}]
    document = {"name": name, "version": "1", "prompt": prompt, "schema_fields": fields}
    (library / f"{name}.json").write_text(json.dumps(document | ({"inputs": inputs} if inputs else {})))


class Maker:
    """Writes shards: the same files for each, but for its key, which stands in them uncompressed."""

    def __init__(self, lake: Lake, bound: Mapping[str, BoundPerspective], rows: int) -> None:
        self._lake, self._rows = lake, rows
        self._media_ids = [f"{number:064x}" for number in range(rows)]
        self._key = Shard(_DATASET, 999_999)
        head = {"dataset": _DATASET, "shard": self._key.key}
        items = [{**head, "uri": f"{number}.jpg", "etag": "1"} for number in range(rows)]
        now = tables.now() - timedelta(days=2)
        media = [
            {**item, "media_id": each, "created_at": now} for item, each in zip(items, self._media_ids, strict=True)
        ]
        self._files = {
            layout.plan_file(self._key): _bytes([{**item, "planned_at": now} for item in items], tables.PLAN),
            layout.media_index(self._key): _bytes(media, tables.MEDIA),
        }
        self._captions = {name: self._rows_of(each, bound) for name, each in bound.items()}
        for name, each in bound.items():
            folder = layout.captions_folder(name, each.fingerprint, self._key)
            self._files[f"{folder}/sealed.parquet"] = _bytes(self._captions[name], schema_of(each))
        first = next(iter(bound.values()))
        failure = {**head, "stage": first.name, "fingerprint": first.fingerprint, "kind": "engine", "retryable": True}
        self._failed = {
            layout.failures_file(first.name, self._key): _bytes(
                [{**failure, "media_id": self._media_ids[0], "attempts": 1, "created_at": now}], tables.FAILURES
            ),
            f"{layout.captions_folder(first.name, first.fingerprint, self._key)}/sealed.parquet": _bytes(
                self._captions[first.name][1:], schema_of(first)
            ),
        }

    def shard(self, number: int, name: str = "sealed.parquet") -> None:
        """Write a shard whole, or only other files of its captions."""
        key = Shard(_DATASET, number).key
        files = self._files | (self._failed if number % _FAILED == 0 else {})
        for path, content in files.items():
            mine = path.replace(self._key.key, key).replace("sealed.parquet", name)
            target = Path(self._lake.path(mine))
            if name == "sealed.parquet" or target.name == name:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.replace(self._key.key.encode(), key.encode()))

    def _rows_of(self, each: BoundPerspective, bound: Mapping[str, BoundPerspective]) -> list[dict[str, Any]]:
        read = input_digest({other: f"{other} says" for other in each.inputs})
        names = {"perspective": each.name, "fingerprint": each.fingerprint, "run_id": "r", "model": each.model}
        names |= {"dataset": _DATASET, "shard": self._key.key, "output_digest": f"{each.name} says"}
        rest = {"input_digest": read, "output": {"caption": "a"}, "created_at": tables.now() - timedelta(days=1)}
        return [{**names, **rest, "media_id": media_id} for media_id in self._media_ids]


def _bytes(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(tables.table(rows, schema), sink, compression="none")
    return bytes(sink.getvalue().to_pybytes())


def status(config: PipelineConfig) -> str:
    """What `caption-assets status` reads."""
    found = read_status(config)
    return f"{sum(each.done for each in found.totals):,} done"


def decision(config: PipelineConfig) -> str:
    """What a tick of the sensor `recaptioning` finds out and chooses."""
    bound, decided, now = bind_perspectives(config), Decision(), tables.now()
    with open_counts(config, bound, seconds=_TICK_SECONDS) as views:
        open_ = find_open(views, config, bound, now)
        find_done(views, "repair", now.replace(hour=0, minute=0, second=0, microsecond=0), [])
    repairs = [portion for each in open_.values() if (portion := repair(each, bound, config.recaption))]
    decide(repairs, Budget(config.recaption.repairs.pictures_per_day), decided)
    left = budget(config.recaption)
    for each in open_.values():
        if portion := recaptioning(each, bound, config.recaption, left, decided):
            decide([portion], left, decided)
    return f"{len(open_):,} shards with something open, {len(decided.portions):,} chosen"


def failure_share(config: PipelineConfig) -> str:
    """What the sensor `alerts` looks at."""
    found = list(too_many_failures(config.alerts or Alerts(), totals_of(config)))
    return f"{len(found)} alerts"


def ticks(config: PipelineConfig) -> str:
    """A cold cache filled by a sensor, tick by tick."""
    longest = count = 0.0
    while True:
        started, count = time.perf_counter(), count + 1
        try:
            open_counts(config, seconds=_TICK_SECONDS).close()
        except StillCounting:
            longest = max(longest, time.perf_counter() - started)
        else:
            return f"{count:.0f} ticks, the longest took {max(longest, time.perf_counter() - started):.1f} s"


def plain(config: PipelineConfig) -> str:
    """The same of the catalog's own views."""
    with open_views(config) as views:
        done = views.execute("SELECT sum(done) FROM status").fetchone()
    return f"{done[0] if done else 0:,} done"


def copy_counts(config: PipelineConfig, shards: int) -> None:
    """Keep the counts of the first shards as if they had been counted."""
    lake, bound = Lake(config.lake), bind_perspectives(config)
    wanted = {name: Wanted(each.fingerprint, each.inputs, arrow_type(each.output)) for name, each in bound.items()}
    ensure_tables(lake, wanted)  # as a look does: counts are kept under the tombstones that there are
    (listing,) = list_lake(lake)
    asked, masks = Asked.read(lake, Wants(wanted, (), normalisation_id(config.media)), [_DATASET]), Masks()
    listed, counter = masks.table(listing, asked), Counter(lake, asked)
    kinds = [
        next(counter.count([masks.to_count(listing, number, listed["mask"][number].as_py())])) for number in (0, 1)
    ]
    counter.close()
    for start in range(0, shards, _COPIED):
        part = listed.slice(start, min(_COPIED, shards - start))
        rows = pa.concat_tables(kinds).take([int(number % _FAILED > 0) for number in part["number"].to_pylist()])
        for name in ("number", "shard", "low", "high"):
            rows = rows.set_column(rows.schema.get_field_index(name), name, part[name])
        KeptCounts(lake, asked.tombstones).add(rows)


def _in_process(look: Callable[[PipelineConfig], str], file: Path, answer: Any) -> None:
    config, started = load_config(file), time.perf_counter()
    told = look(config)
    answer.send((time.perf_counter() - started, resident.most(), told))


def measure(label: str, look: Callable[[PipelineConfig], str], file: Path) -> None:
    """Look in a process of its own, and print what it took."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_in_process, args=(look, file, there))
    process.start()
    there.close()
    seconds, memory, told = here.recv()
    process.join()
    print(f"{label:42} {seconds:8.2f} s {memory:6.0f} MiB   {told}", flush=True)


def main() -> None:
    """Make the lake, and look."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--counted", type=int, default=1_000)
    parser.add_argument("--perspectives", type=int, default=10)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CAPTION_ASSETS_CACHE"] = str(Path(folder) / "cache")
        file = pipeline(Path(folder), options.perspectives)
        config = load_config(file)
        lake, bound = Lake(config.lake), bind_perspectives(config)
        maker, started = Maker(lake, bound, options.rows), time.perf_counter()
        for number in range(options.shards):
            maker.shard(number)
        promote(lake, {name: each.fingerprint for name, each in bound.items()})
        print(f"{options.shards:,} shards x {len(bound)} perspectives made in {time.perf_counter() - started:.0f} s")
        time.sleep(YOUNG_SECONDS)
        copy_counts(config, options.shards - options.counted)
        measure(f"the first look at {options.counted:,} shards, as ticks", ticks, file)
        looks = {"status": status, "decision on re-captioning": decision, "share of failures": failure_share}
        for name, look in looks.items():
            measure(f"{name}, nothing new", look, file)
        for name, look in looks.items():
            for number in range(1, _CHANGED + 1):
                maker.shard(number, f"part-{time.time_ns()}.parquet")
            measure(f"{name}, {_CHANGED} shards changed", look, file)
        _perspective(Path(folder) / "perspectives", "look_00", "Say what is there, and how many.")
        for name, look in looks.items():
            measure(f"{name}, a prompt changed", look, file)
        if options.plain:
            measure("status, the catalog's views", plain, file)


if __name__ == "__main__":
    main()
