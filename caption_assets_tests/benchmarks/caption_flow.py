"""The whole caption job against CaptionFlow 0.5.4: `python -m caption_assets_tests.benchmarks.caption_flow`.

CaptionFlow runs as an installed program, its orchestrator and one worker, in its mock mode: the worker fetches pictures
from its orchestrator, waits 100 ms for each batch, decodes nothing and asks no model. We ask a stub server that answers
each request after 100 ms, with as many requests in flight as CaptionFlow has pictures in a batch. So both have the same
ideal rate, batch / 100 ms, and what is left of it is what each program does to a picture: on our side reading it from
the lake, sending it, validating the answer and writing the row. Printed are medians of three or more, and ratios:

- theirs, tuned: between one write of its storage and the next, start-up left out. Its orchestrator spins for as long as
  it has fewer chunks open than `min_chunk_buffer` and none left to make; here that number and the chunks are such that
  this does not happen while it is measured, its log is quiet and its progress checkpoint far away.
- theirs, as shipped: defaults but for the rows between two writes, which is what lets a short run be measured. With the
  default 10 chunks of 1,000 it spins throughout any dataset, or rest of one, below 10,000 pictures.
- ours: from the first request to the last file, the run's slow first and last moments included; on one line also with
  the making of the media, which CaptionFlow has no counterpart of.
- CPU: of its two processes, and of our client.
- lost: its orchestrator, its storage set as shipped, is killed when three quarters are done, its repair command run
  and the orchestrator started again, until it calls every picture done. Our process is killed at the same point, and
  the run is started again.

CaptionFlow's environment needs a Python of 3.12 or newer and is made once. After that a run takes about three minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.rows import read_rows
from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_index
from caption_assets_tests.benchmarks.caption_flow_program import CaptionFlow, caption_flow
from caption_assets_tests.benchmarks.openai_engine import (
    Outcome,
    StubServer,
    caption_all,
    draw_pictures,
    measure,
    prepare,
    stub_server,
)

_LATENCY = 0.1
_REPETITIONS = 3
_OPEN_CHUNKS = 4
_TUNED_ROWS = {8: 120, 64: 320}
_SHIPPED_ROWS = {8: 24, 64: 64}


@dataclass(frozen=True)
class Loss:
    """What a crash cost."""

    captions: int
    """Lost for good."""
    story: str


def theirs_tuned(command: Path, work: Path, pictures: Path, batch: int) -> list[Outcome]:
    """Its rates where its orchestrator never spins."""
    rows = _TUNED_ROWS[batch]
    names = pictures.with_name(f"names-{batch}")  # it needs more names than there are pictures: some have two
    names.mkdir()
    files = sorted(pictures.iterdir())
    for number in range(rows * (_OPEN_CHUNKS + _REPETITIONS)):
        (names / f"{number:06}.jpg").hardlink_to(files[number % len(files)])
    settings = {"chunk_size": rows, "min_chunk_buffer": _OPEN_CHUNKS, "chunk_buffer_multiplier": 1}
    storage = {"caption_buffer_size": rows, "checkpoint_interval": 3600}
    peer = CaptionFlow(command, work / "tuned", names, batch, {**settings, "storage": storage})
    peer.quiet()
    with peer.started():
        return peer.rates(rows, _REPETITIONS)


def theirs_shipped(command: Path, work: Path, pictures: Path, batch: int) -> list[Outcome]:
    """Its rates with its defaults."""
    rows = _SHIPPED_ROWS[batch]
    peer = CaptionFlow(command, work / "shipped", pictures, batch, {"storage": {"caption_buffer_size": rows}})
    with peer.started():
        return peer.rates(rows, _REPETITIONS)


def theirs_lost(command: Path, work: Path, pictures: Path, count: int) -> Loss:
    """Kill its orchestrator, repair, start it again. One chunk, so that it never spins."""
    settings = {"chunk_size": count, "min_chunk_buffer": 1, "chunk_buffer_multiplier": 1}
    peer = CaptionFlow(command, work / "lost", pictures, 64, settings)
    with peer.started():
        peer.wait(lambda: peer.done() >= count * 3 // 4)
        peer.stop("orchestrator", signal.SIGKILL)
        done = peer.done()
        repaired = peer.repair()
        peer.start("orchestrator", "--no-ssl")
        peer.wait(lambda: peer.done() == count)
        peer.stop("worker", signal.SIGTERM)
        peer.stop("orchestrator", signal.SIGINT)  # as Ctrl-C: it writes what it still holds
        story = f"killed at {done} of {count}, repair command: exit {repaired}; in the end it calls {peer.done()} done"
        return Loss(count - peer.stored(), story)


def ours_lost(config: PipelineConfig, shards: list[Shard], stub: StubServer) -> Loss:
    """Kill the process that captions, run again."""
    lake = Lake(config.lake)
    lake.remove_folder("captions")
    count = sum(len(read_index(lake, shard)) for shard in shards)
    process = multiprocessing.get_context("spawn").Process(target=caption_all, args=(config, shards, 64))
    stub.ask(_LATENCY)
    process.start()
    asked = 0
    while asked < count * 3 // 4 and process.is_alive():
        time.sleep(0.02)
        asked += stub.ask(_LATENCY)[1]
    process.kill()
    process.join()
    asked += stub.ask(_LATENCY)[1]
    caption_all(config, shards, 64)
    again = asked + stub.ask(_LATENCY)[1] - count
    bound = bind_perspectives(config)["scene_caption"]
    kept = sum(len(read_rows(lake, bound, shard, ["media_id"])) for shard in shards)
    return Loss(count - kept, f"killed at {asked} of {count}; in the end {again} requests were made twice")


def compare(work: Path, command: Path, count: int) -> None:
    """Measure all of it and print the table."""
    table = Table("captions a second", "theirs", "ours", "ratio", "CPU ms, theirs", "ours")
    with tempfile.TemporaryDirectory() as folder, stub_server() as stub:
        pictures = Path(folder) / "pictures"
        draw_pictures(pictures, count)
        started, cpu = time.monotonic(), time.process_time()
        config, shards = prepare(Path(folder), stub, shard_size=250)
        media = Outcome(count / (time.monotonic() - started), 1000 * (time.process_time() - cpu) / count)
        for batch in (8, 64):
            measured = shards[: 1 if batch == 8 else None]
            tuned = theirs_tuned(command, work, pictures, batch)
            ours = [measure(config, measured, stub, batch, _LATENCY) for _ in range(_REPETITIONS)]
            _row(table, f"{batch}, tuned (ideal {batch / _LATENCY:.0f})", tuned, ours)
            _row(table, f"{batch}, as shipped", theirs_shipped(command, work, pictures, batch), ours)
        with_media = [Outcome(1 / (1 / run.rate + 1 / media.rate), run.cpu + media.cpu) for run in ours]
        _row(table, "64, tuned; ours and media", tuned, with_media)
        ours = [measure(config, shards, stub, 256, 0.2) for _ in range(_REPETITIONS)]
        _row(table, "64, tuned; ours 256, 200 ms", tuned, ours)
        Console().print(table)
        lost = {"CaptionFlow": theirs_lost(command, work, pictures, count), "ours": ours_lost(config, shards, stub)}
    for name, loss in lost.items():
        print(f"{name}: lost {loss.captions}; {loss.story}")


def _row(table: Table, name: str, theirs: list[Outcome], ours: list[Outcome]) -> None:
    rates = [statistics.median(each.rate for each in side) for side in (theirs, ours)]
    shown = [
        f"{rate:.0f} ({min(each.rate for each in side):.0f}–{max(each.rate for each in side):.0f})"
        for rate, side in zip(rates, (theirs, ours))
    ]
    cpu = [f"{statistics.median(each.cpu for each in side):.2f}" for side in (theirs, ours)]
    table.add_row(name, *shown, f"{rates[1] / rates[0]:.2f}", *cpu)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "caption-assets-flow-benchmark")
    parser.add_argument(
        "--python", default=sys.executable, help="3.12 or newer, to make CaptionFlow's environment with"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # CaptionFlow's processes end with us
    compare(arguments.work, caption_flow(arguments.work / "environment", arguments.python), arguments.pictures)


if __name__ == "__main__":
    main()
