"""How soon a finished shard is recognised: `python -m caption_assets_tests.benchmarks.finished_shard`.

A script answers for all pictures of one shard; then the caption op is run on it again. Printed are medians: seconds to
find that nothing is to be done, and seconds of the op, from its start to its report.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.work import find_work
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests.support import ScriptedEngine, caption, ingest, lent, reply

_CAPTION = '{"caption":"a red circle","tags":["circle"]}'


def prepare(folder: Path, count: int) -> tuple[PipelineConfig, Shard]:
    """A shard of so many tiny pictures, each with a caption."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(count):
        color = (number % 256, number // 256, 128)
        Image.new("RGB", (8, 8), color).save(folder / "pictures" / f"{number:06d}.png")
    document = {
        "lake": "./lake",
        "datasets": {"bench": {"kind": "folder", "path": "./pictures", "shard_size": count}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
    config = load_config(folder / "pipeline.yaml")
    lake = Lake(config.lake)
    (shard,) = ingest(config, lake, "bench")
    caption(config, lake, [shard], lent(ScriptedEngine(lambda request: reply(_CAPTION))))
    return config, shard


def measure(config: PipelineConfig, shard: Shard, count: int) -> tuple[float, float]:
    """Seconds to find out, and of the whole op."""
    lake, bound = Lake(config.lake), bind_perspectives(config)
    started = time.perf_counter()
    work = find_work(lake, shard, list(bound.values()), bound, force=False, max_attempts=3)
    found = time.perf_counter() - started
    assert not work.pictures
    assert work.total == count
    nobody = ScriptedEngine(lambda request: reply("never asked"))
    started = time.perf_counter()
    (report,) = caption(config, lake, [shard], lent(nobody), run_id="again")
    took = time.perf_counter() - started
    assert report.looks["scene_caption"].there == count
    assert not nobody.requests
    return found, took


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, shard = prepare(Path(folder), options.rows)
        runs = [measure(config, shard, options.rows) for _ in range(options.repeat)]
    table = Table("finished shard", "value", "wanted", title=f"{options.rows} rows, {options.repeat} turns, medians")
    for name, values in zip(("recognised, s", "the op on it, s"), zip(*runs)):
        table.add_row(name, f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})", "1")
    Console().print(table)


if __name__ == "__main__":
    main()
