"""Trains the demo model from scratch on two CPU cores: `python -m caption_assets.demo.train`.

Every process draws its own scenes, gradients are averaged (gloo), and the learning rate follows the clock: constant
for the first half of `--minutes`, then linearly down. Ctrl-C ends a run with a checkpoint; `--resume` goes on from it,
or, where there is none, from the exported weights. The loss curve is appended to a CSV file beside the checkpoint.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WORK_FOLDER = Path.home() / ".cache" / "caption_assets" / "demo_training"


@dataclass(frozen=True)
class Settings:
    """What a run is told on the command line."""

    minutes: float
    out: Path
    work: Path
    resume: bool
    pictures: int
    syntheses: int
    silent: int
    rate: float
    export_minutes: float
    processes: int
    rank: int
    port: int


def parse(arguments: list[str] | None = None) -> Settings:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--minutes", type=float, default=95.0, help="wall-clock length of the whole schedule")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="where the model is exported")
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help="checkpoint and loss curve")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, else the exported weights")
    parser.add_argument("--pictures", type=int, default=16, help="pictures per process and step")
    parser.add_argument("--syntheses", type=int, default=6, help="text-only syntheses per process and step")
    parser.add_argument(
        "--silent", type=int, default=16, help="further pictures per process and step, without captions"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--export-minutes", type=float, default=20.0, help="minutes between interim exports")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    return Settings(**vars(parser.parse_args(arguments)))


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Start the other processes and train as the first of them."""
    # one thread a process: more of them spin against each other on a busy machine. Read when torch is imported.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1")
    # Batches have many lengths, and oneDNN would keep code for a thousand of them: gigabytes.
    os.environ.update(ONEDNN_PRIMITIVE_CACHE_CAPACITY="32", LRU_CACHE_CAPACITY="32", MALLOC_ARENA_MAX="2")
    settings = parse()
    others: list[subprocess.Popen[bytes]] = []
    if settings.rank == 0 and settings.processes > 1:
        port = free_port()
        settings = Settings(**{**vars(settings), "port": port})
        for rank in range(1, settings.processes):
            command = [sys.executable, "-m", "caption_assets.demo.train", *sys.argv[1:]]
            others.append(subprocess.Popen([*command, "--rank", str(rank), "--port", str(port)]))
    from caption_assets.demo.trainer import Trainer

    trainer = Trainer(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: trainer.interrupt())
    try:
        trainer.run()
    finally:
        for process in others:
            if sys.exc_info()[0] is not None:
                process.kill()
            process.wait()


if __name__ == "__main__":
    main()
