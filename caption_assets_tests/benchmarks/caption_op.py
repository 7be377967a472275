"""How close the caption op comes to its engine: `python -m caption_assets_tests.benchmarks.caption_op`.

Prints ratios of one process's runs, medians over repetitions in turn:

- op / bare: the caption op (media there already; from its first request submitted to its last file durable) against
  the same engine driven bare: the same prompts and sampling, all requests submitted at once, pictures already decoded,
  nothing validated or stored. Each run of the op is compared with the mean of the bare ones before and after it.
- op / LLM.chat, op / blocks of eight: against vLLM's offline interface in a process of its own, given the same requests
  at once, or for every eight pictures after a serial decode, as simpler captioners do.
- idle: the share of the op's time, after the first answer, in which the engine had no request.

`--model` takes, beside a folder or a hub's name, a name of `architectures.py`: a real architecture without its weights.
What such a model says makes no sense, so it is asked for a number of tokens of plain text (`--tokens`), and the op goes
on with an answer that is valid.
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
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from caption_assets.captioning.asking import first_request
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine.protocol import EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.media.stored import segment_path
from caption_assets_tests.benchmarks.architectures import ARCHITECTURES, ARGUMENTS, write_architecture
from caption_assets_tests.benchmarks.metered import LoopEngine, MeteredEngine, in_a_loop, plain
from caption_assets_tests.support import caption, ingest, lent

_TOKENS = 32
_ENABLED = ["scene_caption", "scene_objects", "scene_count", "synthesized_caption"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="tiny", help=f"tiny, {', '.join(ARCHITECTURES)}, a folder, or a hub's name")
    parser.add_argument("--mode", choices=["auto", "in_process", "async"], default="auto")
    parser.add_argument("--args", type=json.loads, default={}, help="further arguments of the engine, as JSON")
    parser.add_argument("--tokens", type=int, help="plain text of so many tokens instead of JSON")
    parser.add_argument("--no-offline", action="store_true", help="leave out vLLM's offline interface")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(Path(folder), options.pictures, options.model, options.mode, options.args)
        tokens = options.tokens or (_TOKENS if options.model in ARCHITECTURES else None)
        measure(config, options.pictures, options.repeat, tokens, offline=not options.no_offline)


def prepare(folder: Path, count: int, model: str, mode: str, arguments: dict[str, Any]) -> PipelineConfig:
    """Draw pictures and write a pipeline file for them: one shard."""
    write_scenes(folder / "pictures", count, 31)
    if model in ARCHITECTURES:
        write_architecture(folder / model, model)
        model, arguments = f"./{model}", ARGUMENTS | arguments
    document = {
        "lake": "./lake",
        "datasets": {"bench": {"kind": "folder", "path": "./pictures", "shard_size": count}},
        "perspectives": {"library": ["demo"], "enabled": _ENABLED},
        "engines": {"default": {"kind": "vllm", "model": model, "mode": mode, "args": arguments}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return load_config(folder / "pipeline.yaml")


def measure(config: PipelineConfig, count: int, repeat: int, tokens: int | None, *, offline: bool) -> None:
    """Run op and bare engine in turn, then the offline interface, and print the ratios."""
    lake = Lake(config.lake)
    (shard,) = ingest(config, lake, "bench")
    ops: list[float] = []
    idles: list[float] = []
    with in_a_loop(config) as engine:
        requests = _op(engine, config, lake, shard, "warm", tokens).requests

        def bare(name: str) -> float:
            return count / _bare(engine, config, lake, shard, requests, name, tokens)

        bares = [bare("bare")]
        for turn in range(repeat):
            metered = _op(engine, config, lake, shard, f"op{turn}", tokens)
            ops.append(count / (metered.ended - metered.first))
            idles.append(metered.idle / (metered.ended - metered.answered))
            bares.append(bare(f"bare{turn}"))
    # Each op stands between two bare runs: a machine that slows down, or speeds up, favours neither.
    ratios = [2 * op / sum(around) for op, around in zip(ops, pairwise(bares), strict=True)]
    table = Table("figure", "value", "wanted", title=f"{count} pictures, {repeat} turns, medians")
    table.add_row("op, pictures/s", f"{statistics.median(ops):.1f}", "")
    table.add_row("bare engine, pictures/s", f"{statistics.median(bares):.1f}", "")
    spread = f"{statistics.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})"
    table.add_row("op / bare", spread, "0.90; GPU 0.97")
    if offline:
        rates = [_offline(config, lake, shard, requests, tokens) for _ in range(repeat)]
        for name, wanted in (("chat", ""), ("blocks", "GPU 1.5")):
            ratio = statistics.median(ops) / statistics.median(each[name] for each in rates)
            table.add_row(f"op / {'LLM.chat' if name == 'chat' else 'blocks of eight'}", f"{ratio:.3f}", wanted)
    table.add_row("engine idle share", f"{statistics.median(idles):.4f}", "0.02")
    Console().print(table)


def _op(
    engine: LoopEngine, config: PipelineConfig, lake: Lake, shard: Shard, name: str, tokens: int | None
) -> MeteredEngine:
    """Run the op on a shard without captions; gives the times, its end among them."""
    lake.remove_folder("captions")
    metered = MeteredEngine(engine, name, tokens)
    caption(config, lake, [shard], lent(metered), run_id=name)
    metered.ended = time.perf_counter()
    return metered


def _offline(
    config: PipelineConfig, lake: Lake, shard: Shard, asked: list[EngineRequest], tokens: int | None
) -> dict[str, float]:
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
        command += [str(tokens)] if tokens else []
        told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(told.stderr[-2000:])
    rates: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return rates


def _bare(
    engine: LoopEngine,
    config: PipelineConfig,
    lake: Lake,
    shard: Shard,
    asked: list[EngineRequest],
    salt: str,
    tokens: int | None,
) -> float:
    """Seconds for the op's own first requests, all submitted at once with their pictures decoded."""
    bound = bind_perspectives(config)
    decoded = {row["media_id"]: _decode(lake, row) for row in read_index(lake, shard)}
    firsts = [request for request in asked if request.request_id.endswith("#1")]
    requests = [
        plain(
            first_request(
                bound[request.request_id.split("/")[-1].removesuffix("#1")],
                f"{salt}-{request.request_id}",
                request.text,
                decoded.get(request.image_id or ""),
                None if request.image_id is None else f"{salt}-{request.image_id}",
            ),
            tokens,
        )
        for request in firsts
    ]

    async def all_at_once() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(engine.engine.generate(request) for request in requests))
        return time.perf_counter() - started

    return engine.run(all_at_once())


def _decode(lake: Lake, row: dict[str, object]) -> Image.Image:
    with Image.open(io.BytesIO(read_picture(lake, row))) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main()
