"""`make demo`: draws pictures, runs the real jobs on the bundled model, and shows what they said.

Run again, it changes nothing: what is planned and captioned is recognised from the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from caption_assets.captioning.catalog import open_views
from caption_assets.config import CONFIG_VARIABLE, ConfigError, PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import open_source, planned_shards, read_plan
from caption_assets.status.reading import read_status

DATASET = "demo"
SCENES = 60
SEED = 2026
_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1]
_EVENT = re.compile(r" - (?P<level>INFO|ERROR|DEBUG) - \w+ - [0-9a-f-]{36} - (?:\d+ - )?(?P<rest>.*)")
_out = Console(highlight=False)


def main() -> None:
    """Run the demo, or with `--prepare` just put pictures and instance in place."""
    parser = argparse.ArgumentParser(prog="python -m caption_assets.demo", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="draw the pictures and make the instance, run nothing")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"how many scenes to draw (default {SCENES})")
    options = parser.parse_args()
    try:
        config = load_config(check_paths=False)  # the folder is made below
    except ConfigError as error:
        sys.exit(f"error: {error}")
    if DATASET not in config.datasets:
        sys.exit(f"error: {config.file}: datasets: the demo needs one named {DATASET!r}; unset {CONFIG_VARIABLE}")
    home = prepare_instance()
    prepare_pictures(config.dataset_path(DATASET), options.scenes)
    if options.prepare:
        _out.print("Dagster's UI comes up on http://localhost:3000 in some seconds; Ctrl-C ends it.", markup=False)
        _out.print(f"Pictures dropped into {config.dataset_path(DATASET)} are captioned by themselves.", soft_wrap=True)
        return
    if is_finished(config):
        _out.print("Everything is captioned already; nothing to do.", style="green")
    else:
        run_jobs(config, home)
    show(config)


def prepare_instance() -> Path:
    """Make DAGSTER_HOME (default: `.dagster` in the checkout) with the local instance's settings."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(_CHECKOUT / ".dagster")))
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_CHECKOUT / "deploy" / "local" / "dagster.yaml", home / "dagster.yaml")
    return home


def prepare_pictures(folder: Path, scenes: int) -> None:
    """Draw the scenes and copy the photographs, once."""
    if (folder / "truth.jsonl").exists():
        return
    _out.print(f"Drawing {scenes} scenes and copying 4 photographs into {folder} ...")
    folder.mkdir(parents=True, exist_ok=True)
    for photograph in sorted((_HERE / "photographs").glob("*.jpg")):
        shutil.copyfile(photograph, folder / photograph.name)
    write_scenes(folder, scenes, SEED)


def is_finished(config: PipelineConfig) -> bool:
    """Whether every picture of the folder is planned, and every planned one captioned (or known to fail)."""
    lake = Lake(config.lake)
    planned = {(item.uri, item.etag) for shard in planned_shards(lake, DATASET) for item in read_plan(lake, shard)}
    if not planned or any((item.uri, item.etag) not in planned for item in open_source(config, DATASET).scan()):
        return False
    return read_status(config).complete


def run_jobs(config: PipelineConfig, home: Path) -> None:
    """Plan the dataset, then bring all its shards up to date in one run. Exits when a job fails."""
    _out.print(f"Dagster instance {home}, lake {config.lake}")
    _execute("ingest_job", {"dagster/partition": DATASET}, steps=1)
    shards = [shard.key for shard in planned_shards(Lake(config.lake), DATASET)]
    tags = {"dagster/asset_partition_range_start": shards[0], "dagster/asset_partition_range_end": shards[-1]}
    _execute("caption_job", tags, steps=len(shards) * (1 + len(config.perspectives.enabled)))


def _execute(job: str, tags: dict[str, str], steps: int) -> None:
    """Run a job by Dagster's command line, showing its events as they come."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "caption_assets.definitions", "-j", job]
    process = subprocess.Popen(
        [*command, "--tags", json.dumps(tags)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    tail: list[str] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=_out,
    ) as progress:
        task = progress.add_task(job, total=steps)
        for line in _kept(process.stdout, tail):
            if "ASSET_MATERIALIZATION" in line:
                progress.advance(task)
            elif " - INFO - " in line and (event := _EVENT.search(line)) and "did not yield" not in line:
                progress.console.print(f"  {event['rest']}", markup=False, style="dim")
    if process.wait() != 0:
        print("".join(tail), file=sys.stderr)
        _out.print(f"{job} failed; the end of its log is above", style="red")
        sys.exit(1)


def _kept(lines: Iterator[str], tail: list[str]) -> Iterator[str]:
    """Lines as they come; the last hundred stay in `tail`."""
    for line in lines:
        tail.append(line)
        del tail[:-100]
        yield line


def show(config: PipelineConfig) -> None:
    """Print some pictures with their captions, and what to do next."""
    table = Table("picture", "synthesized caption", "tags", "count", title="Some of the pictures")
    with open_views(config) as views:
        rows = views.execute(
            """SELECT regexp_extract(m.uri, '[^/]+$') AS file, c.output.caption, c.output.tags, c.output.count
            FROM captions_synthesized_caption c JOIN media m USING (media_id)
            QUALIFY row_number() OVER (PARTITION BY m.uri LIKE '%/scene%' ORDER BY m.uri) <= 8 ORDER BY m.uri"""
        ).fetchall()
        counts = views.execute("SELECT count(DISTINCT media_id), count(*) FROM captions").fetchone()
        failed = views.execute("SELECT count(*) FROM failures").fetchone()
    for file, caption, tags, count in rows:
        table.add_row(file, caption, ", ".join(tags or []), str(count))
    _out.print(table)
    assert counts is not None
    assert failed is not None
    _out.print(f"{counts[0]} pictures, {counts[1]} captions, {failed[0]} failures.")
    _out.print(
        '\nQuery them:   .venv/bin/caption-assets query "SELECT media_id, caption FROM captions_scene_caption"',
        soft_wrap=True,
    )
    _out.print(f"With DuckDB:  duckdb {config.lake}/catalog.duckdb", soft_wrap=True)
    _out.print("In the UI:    make ui   (then http://localhost:3000)", markup=False, soft_wrap=True)
    _out.print(
        f"Add pictures: drop them into {config.dataset_path(DATASET)} while the UI runs", markup=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
