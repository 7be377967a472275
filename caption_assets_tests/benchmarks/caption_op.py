"""How close the caption op comes to its engine: `python -m caption_assets_tests.benchmarks.caption_op`.

Prints ratios of one process's runs, medians over repetitions in turn:

- op / bare: the caption op (media there already; from its first request submitted to its last file durable) against
  the same engine driven bare: the same prompts and sampling, all requests submitted at once, pictures already decoded,
  nothing validated or stored. Each run of the op is compared with the mean of the bare ones before and after it. Where
  a hypervisor gave more than a fiftieth of the cores' time in one of the three to others, the turn is made again.
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
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from caption_assets.captioning.asking import decoded, first_request
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine.protocol import EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index, read_picture
from caption_assets.media.stored import segment_path
from caption_assets_tests.benchmarks.architectures import ARCHITECTURES, ARGUMENTS, write_architecture
from caption_assets_tests.benchmarks.disturbance import Disturbance, Turns, calm_turns
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
    with in_a_loop(config) as engine:
        requests = _op(engine, config, lake, shard, "warm", tokens).requests

        def bare(name: str) -> _Run:
            with Disturbance() as disturbance:
                seconds = _bare(engine, config, lake, shard, requests, name, tokens)
            return _Run(count / seconds, disturbance.share)

        def op(name: str) -> _Run:
            with Disturbance() as disturbance:
                metered = _op(engine, config, lake, shard, name, tokens)
            idle = metered.idle / (metered.ended - metered.answered)
            return _Run(count / (metered.ended - metered.first), disturbance.share, idle)

        turns = _turns(op, bare, repeat)
    kept = turns.kept
    ops = statistics.median(turn.op.rate for turn in kept)
    table = Table("figure", "value", "wanted", title=f"{count} pictures, {len(kept)} turns, medians")
    table.add_row("op, pictures/s", f"{ops:.1f}", "")
    table.add_row("bare engine, pictures/s", f"{statistics.median(turn.after.rate for turn in kept):.1f}", "")
    table.add_row("op / bare", _spread(kept), "0.90; GPU 0.97")
    if turns.told:
        table.add_row(f"  {turns.told}; all", _spread(turns.made), "")
    if offline:
        rates = [_offline(config, lake, shard, requests, tokens) for _ in range(repeat)]
        for name, wanted in (("chat", ""), ("blocks", "GPU 1.5")):
            ratio = ops / statistics.median(each[name] for each in rates)
            table.add_row(f"op / {'LLM.chat' if name == 'chat' else 'blocks of eight'}", f"{ratio:.3f}", wanted)
    table.add_row("engine idle share", f"{statistics.median(turn.op.idle for turn in kept):.4f}", "0.02")
    Console().print(table)


@dataclass(frozen=True)
class _Run:
    """One run: pictures a second, the share of the cores' time that others had, and the engine's idle share."""

    rate: float
    disturbance: float
    idle: float = 0.0


@dataclass(frozen=True)
class _Turn:
    """A run of the op between two of the bare engine: a machine that slows down, or speeds up, favours neither."""

    before: _Run
    op: _Run
    after: _Run

    @property
    def ratio(self) -> float:
        return 2 * self.op.rate / (self.before.rate + self.after.rate)

    @property
    def disturbance(self) -> float:
        """The largest of its runs."""
        return max(run.disturbance for run in (self.before, self.op, self.after))


def _turns(op: Callable[[str], _Run], bare: Callable[[str], _Run], repeat: int) -> Turns[_Turn]:
    """Turns in a row, each beginning with the bare run that ended the one before."""
    made: list[_Turn] = []
    first = bare("bare")

    def turn() -> _Turn:
        before = made[-1].after if made else first
        made.append(_Turn(before, op(f"op{len(made)}"), bare(f"bare{len(made)}")))
        print(f"turn {len(made)}: op / bare {made[-1].ratio:.3f}, disturbed {made[-1].disturbance:.1%}", flush=True)
        return made[-1]

    return calm_turns(turn, repeat)


def _spread(turns: Sequence[_Turn]) -> str:
    each = ", ".join(f"{turn.ratio:.3f}" for turn in turns)
    return f"{statistics.median(turn.ratio for turn in turns):.3f} ({each})"


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
    pictures = {row["media_id"]: decoded(read_picture(lake, row)) for row in read_index(lake, shard)}
    firsts = [request for request in asked if request.request_id.endswith("#1")]
    requests = [
        plain(
            first_request(
                bound[request.request_id.split("/")[-1].removesuffix("#1")],
                f"{salt}-{request.request_id}",
                request.text,
                pictures.get(request.image_id or ""),
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


if __name__ == "__main__":
    main()
