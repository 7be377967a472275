"""What a training run is told on the command line."""

import argparse
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
