"""How close the caption op comes to its engine: `python -m caption_assets_tests.benchmarks.captions`.

Prints ratios of one process's runs, medians over repetitions in turn:

- op / bare: the caption op (media there already; from its first request submitted to its last file durable) against
  the same engine driven bare: the same prompts and sampling, all requests submitted at once, pictures already decoded,
  nothing validated or stored.
- op / LLM.chat, op / blocks of eight: against vLLM's offline interface in a process of its own, given the same requests
  at once, or for every eight pictures after a serial decode, as simpler captioners do.
- idle: the share of the op's time, after the first answer, in which the engine had no request.
- resume: seconds to recognise a finished shard of ten thousand rows, which a script answered.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from caption_assets.captioning.asking import first_request
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.work import find_work
from caption_assets.config import PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine.device import has_gpu
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import Engine, EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.media.stored import segment_path
from caption_assets_tests.support import ScriptedEngine, caption, ingest, lent, reply

_RESUME_ROWS = 10_000


@dataclass
class MeteredEngine:
    """Passes requests on, under picture names of its own so that no run finds another's cache, and keeps time."""

    engine: Engine
    salt: str
    load_seconds: float = 0.0
    max_in_flight: int = 0
    first: float = 0.0
    answered: float = 0.0
    idle: float = 0.0
    requests: list[EngineRequest] = field(default_factory=list)
    _open: int = 0
    _empty_since: float = 0.0

    def __post_init__(self) -> None:
        self.max_in_flight = self.engine.max_in_flight

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request."""
        now = time.perf_counter()
        self.first = self.first or now
        if self._open == 0 and self.answered:
            self.idle += now - self._empty_since
        self._open += 1
        self.requests.append(request)
        own = None if request.image_id is None else f"{self.salt}-{request.image_id}"
        try:
            return await self.engine.generate(
                replace(request, request_id=f"{self.salt}-{request.request_id}", image_id=own)
            )
        finally:
            self._open -= 1
            self.answered = self.answered or time.perf_counter()
            self._empty_since = time.perf_counter()

    def close(self) -> None:
        """Leave the engine to the benchmark."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(Path(folder), options.pictures, options.model)
        measure(config, options.pictures, options.repeat)


def prepare(folder: Path, count: int, model: str) -> PipelineConfig:
    """Draw pictures and write a pipeline file for them: one shard."""
    write_scenes(folder / "pictures", count, 31)
    enabled = ["scene_caption", "scene_objects", "scene_count", "synthesized_caption"]
    return _write_pipeline(folder, count, model, enabled)


def _write_pipeline(folder: Path, count: int, model: str, enabled: list[str]) -> PipelineConfig:
    document = {
        "lake": "./lake",
        "datasets": {"bench": {"kind": "folder", "path": "./pictures", "shard_size": count}},
        "perspectives": {"library": ["demo"], "enabled": enabled},
        "engines": {"default": {"kind": "vllm", "model": model}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return load_config(folder / "pipeline.yaml")


def measure(config: PipelineConfig, count: int, repeat: int) -> None:
    """Run op and bare engine in turn, then the offline interface, and print the ratios."""
    lake = Lake(config.lake)
    (shard,) = ingest(config, lake, "bench")
    ops: list[float] = []
    bares: list[float] = []
    idles: list[float] = []
    with open_engine(config, "default") as engine:
        for turn in range(repeat + 1):
            lake.remove_folder("captions")
            metered = MeteredEngine(engine, f"op{turn}")
            caption(config, lake, [shard], lent(metered), run_id=f"op{turn}")
            ended = time.perf_counter()
            bare = asyncio.run(_bare(engine, config, lake, shard, metered.requests, f"bare{turn}"))
            if turn:  # the first of each warms up
                ops.append(count / (ended - metered.first))
                idles.append(metered.idle / (ended - metered.answered))
                bares.append(count / bare)
    offline = [_offline(config, lake, shard, metered.requests) for _ in range(repeat)]
    resumed = _resume(config.base_dir / "resume", _RESUME_ROWS)
    table = Table("figure", "value", "wanted", title=f"{count} pictures, {repeat} turns, medians")
    table.add_row("op, pictures/s", f"{statistics.median(ops):.1f}", "")
    table.add_row("bare engine, pictures/s", f"{statistics.median(bares):.1f}", "")
    ratios = [op / bare for op, bare in zip(ops, bares, strict=True)]
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    table.add_row("op / bare", spread, "0.90; GPU 0.97")
    for name, wanted in (("chat", ""), ("blocks", "GPU 1.5")):
        ratio = statistics.median(ops) / statistics.median(each[name] for each in offline)
        table.add_row(f"op / {'LLM.chat' if name == 'chat' else 'blocks of eight'}", f"{ratio:.3f}", wanted)
    table.add_row("engine idle share", f"{statistics.median(idles):.4f}", "0.02")
    table.add_row(f"finished shard of {_RESUME_ROWS} rows recognised, s", f"{resumed:.2f}", "1")
    Console().print(table)


def _resume(folder: Path, count: int) -> float:
    """Seconds to see that a finished shard of so many pictures, with a caption each, needs nothing."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(count):
        color = (number % 256, number // 256, 128)
        Image.new("RGB", (8, 8), color).save(folder / "pictures" / f"{number:06d}.png")
    config = _write_pipeline(folder, count, "tiny", ["scene_caption"])
    lake = Lake(config.lake)
    (shard,) = ingest(config, lake, "bench")
    script = ScriptedEngine(lambda request: reply('{"caption":"a red circle","tags":["circle"]}'))
    caption(config, lake, [shard], lent(script))
    started = time.perf_counter()
    bound = bind_perspectives(config)
    work = find_work(lake, shard, list(bound.values()), bound, force=False, max_attempts=3)
    resumed = time.perf_counter() - started
    assert not work.pictures
    assert work.total == count
    return resumed


def _offline(config: PipelineConfig, lake: Lake, shard: Shard, asked: list[EngineRequest]) -> dict[str, float]:
    """Pictures a second of the offline interface, for the op's own first requests."""
    rows = {row["media_id"]: row for row in read_index(lake, shard)}
    prefixes = {media_id[:16]: media_id for media_id in rows}
    entries = []
    for request in asked:
        if request.request_id.endswith("#1"):
            _, prefix, name = request.request_id.removesuffix("#1").split("/")
            row = rows[prefixes[prefix]]
            place = {"media_id": row["media_id"], "path": segment_path(row)}
            place |= {"offset": row["offset"], "length": row["length"]}
            entries.append({"media_id": request.image_id, "picture": place, "perspective": name, "text": request.text})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(entries, file)
        file.flush()
        command = [sys.executable, "-m", "caption_assets_tests.benchmarks.offline", str(config.file), file.name]
        told = subprocess.run([*command, *(["gpu"] if has_gpu() else [])], capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(told.stderr[-2000:])
    rates: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return rates


async def _bare(
    engine: Engine, config: PipelineConfig, lake: Lake, shard: Shard, asked: list[EngineRequest], salt: str
) -> float:
    """Seconds for the op's own first requests, all submitted at once with their pictures decoded."""
    bound = bind_perspectives(config)
    decoded = {row["media_id"]: _decode(lake, row) for row in read_index(lake, shard)}
    firsts = [request for request in asked if request.request_id.endswith("#1")]
    requests = [
        replace(
            first_request(
                bound[request.request_id.split("/")[-1].removesuffix("#1")],
                f"{salt}-{request.request_id}",
                request.text,
                decoded.get(request.image_id or ""),
                None if request.image_id is None else f"{salt}-{request.image_id}",
            )
        )
        for request in firsts
    ]
    started = time.perf_counter()
    await asyncio.gather(*(engine.generate(request) for request in requests))
    return time.perf_counter() - started


def _decode(lake: Lake, row: dict[str, object]) -> Image.Image:
    with Image.open(io.BytesIO(read_picture(lake, row))) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main()
