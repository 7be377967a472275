"""How fast pictures become media: `python -m caption_assets_tests.benchmarks.ingest`.

Prints ratios of one run, medians over repetitions in turn, all on the same pictures and the same cores (where a
hypervisor gave more than a fiftieth of the cores' time to others, a repetition is made again):

- web: 2,000 JPEGs over loopback HTTP, against img2dataset 1.47 (installed into an environment of its own): its steady
  rate by its shards' own clocks, ours from the first fetch to the last index; and both as whole commands. Same output
  size and quality; SHA-256, EXIF, perceptual hash, quality numbers and index included on our side.
- local: a shard from local files, against the fastest bare decode-resize-encode loops known, which store nothing.
- PSNR of the stored pixels before encoding, against a full decode shrunk with Lanczos.
- memory: the most that the command held, for these pictures and for ones of a hundred megapixels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
import simplejpeg
import yaml
from aiohttp import web
from PIL import Image
from rich.console import Console
from rich.table import Table

from caption_assets.config import load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.decode import decode
from caption_assets.media.pixels import fit
from caption_assets.media.shard import build_media
from caption_assets.sources.planner import open_source, plan_dataset
from caption_assets_tests import resident
from caption_assets_tests.benchmarks.disturbance import Disturbance, Turns, calm_turns
from caption_assets_tests.benchmarks.photographs import write_photographs

SIDE = 512
MAX_PIXELS = SIDE * SIDE * 3 // 2
QUALITY = 90
_CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    steady: float
    """Pictures a second without its start-up."""
    whole: float
    """Pictures a second of the command."""
    cpu: float
    """Milliseconds of processor time a picture, start-up included."""
    megabytes: float = 0.0
    """Held at most."""


def ingest(pipeline: str) -> None:
    """Our side's command: plan and build every dataset of a pipeline file; prints what it took, as JSON."""
    config = load_config(pipeline)
    lake = Lake(config.lake)
    started, pictures, failed = time.monotonic(), 0, 0
    for name, dataset in config.datasets.items():
        source = open_source(config, name)
        for shard in plan_dataset(lake, name, source, dataset.shard_size).shards:
            report = build_media(lake, shard, source, config.media, "benchmark")
            pictures, failed = pictures + report.rows, failed + report.failed
    seconds = time.monotonic() - started
    print(json.dumps({"pictures": pictures, "failed": failed, "seconds": seconds, "megabytes": resident.most()}))


def _serve(folder: Path, port: multiprocessing.Queue[int]) -> None:
    bodies = {file.name: file.read_bytes() for file in folder.iterdir()}

    async def picture(request: web.Request) -> web.Response:
        body = bodies.get(request.match_info["name"])
        return web.Response(body=body, content_type="image/jpeg") if body else web.Response(status=404)

    async def told(app: web.Application) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.put(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]

    import asyncio

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{name}", picture)
        await told(app)
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The folder's files over HTTP, from memory, by a process of its own; gives the base URL."""
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_serve, args=(folder, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=60)}"
    finally:
        process.kill()


def img2dataset(environment: Path) -> Path:
    """The peer's command, installed if it is not there yet."""
    command = environment / "bin" / "img2dataset"
    if not command.exists():
        venv.create(environment, with_pip=True, clear=True)
        pinned = ["img2dataset==1.47.0", "opencv-python-headless<5", "setuptools<81"]
        subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "-q", *pinned], check=True)
    return command


def run_peer(command: Path, urls: Path, work: Path) -> Outcome:
    """The peer's command; its steady rate is by its shards' own clocks."""
    out = work / "img2dataset"
    shutil.rmtree(out, ignore_errors=True)
    arguments = {
        "url_list": urls, "output_folder": out, "output_format": "webdataset", "image_size": SIDE,
        "resize_mode": "keep_ratio", "resize_only_if_bigger": True, "encode_quality": QUALITY,
        "processes_count": _CORES, "thread_count": 32, "number_sample_per_shard": 1000, "extract_exif": True,
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in arguments.items()]
    seconds, cpu = _timed([str(command), *options])[:2]
    stats = [json.loads(file.read_text()) for file in out.glob("*_stats.json")]
    done = sum(each["successes"] for each in stats)
    steady = max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)
    return Outcome(done / steady, done / seconds, cpu / done * 1000)


def run_ours(pipeline: Path, lake: Path) -> Outcome:
    """Our command."""
    shutil.rmtree(lake, ignore_errors=True)
    command = [sys.executable, "-m", "caption_assets_tests.benchmarks.ingest", "--ingest", str(pipeline)]
    seconds, cpu, told = _timed(command)
    result = json.loads(told.splitlines()[-1])
    if result["failed"]:
        raise RuntimeError(f"{result['failed']} pictures failed")
    done = result["pictures"]
    return Outcome(done / result["seconds"], done / seconds, cpu / done * 1000, result["megabytes"])


def _timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds and processor seconds of a command, and what it printed. Raises RuntimeError if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    told = subprocess.run(command, capture_output=True, text=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if told.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{told.stderr[-2000:]}")
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, told.stdout


def bare_loop(files: list[Path], kernel: int) -> float:
    """Pictures a second of decode, resize, encode and nothing else, on as many threads as cores."""

    def one(file: Path) -> int:
        data = file.read_bytes()
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        size = fit(width, height, MAX_PIXELS)
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=size[0], min_height=size[1], fastdct=True)
        return len(simplejpeg.encode_jpeg(cv2.resize(pixels, size, interpolation=kernel), QUALITY, "RGB", "420"))

    started = time.monotonic()
    with ThreadPoolExecutor(_CORES) as pool:
        total = sum(1 for size in pool.map(one, files) if size)
    return total / (time.monotonic() - started)


def local_shard(files: list[Path], work: Path) -> float:
    """Pictures a second of a shard of local files, all that a media row needs included."""
    folder, lake = work / "local", Lake(str(work / "local_lake"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(lake.root, ignore_errors=True)
    folder.mkdir()
    for file in files:
        (folder / file.name).hardlink_to(file)
    pipeline = _pipeline(work / "local.yaml", lake.root, {"kind": "folder", "path": str(folder), "shard_size": 100_000})
    config = load_config(pipeline)
    source = open_source(config, "pictures")
    plan_dataset(lake, "pictures", source, 100_000)
    started = time.monotonic()
    report = build_media(lake, Shard("pictures", 0), source, config.media, "benchmark")
    return report.rows / (time.monotonic() - started)


def psnr(files: list[Path]) -> list[float]:
    """Decibels by which our pixels, before encoding, differ from a full decode shrunk with Lanczos."""
    values = []
    for file in files:
        data = file.read_bytes()
        ours = decode(data, max_megapixels=100, target_pixels=MAX_PIXELS).pixels
        with Image.open(file) as image:
            wanted = image.convert("RGB").resize(ours.shape[1::-1], Image.Resampling.LANCZOS)
        error = np.square(np.asarray(wanted).astype(float) - ours).mean()
        values.append(10 * float(np.log10(255**2 / max(error, 1e-9))))
    return values


def big_pictures(work: Path) -> float:
    """Megabytes held at most while a shard of pictures of a hundred megapixels is made."""
    folder, lake = work / "big", work / "big_lake"
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        small = np.random.default_rng(1).integers(0, 256, (100, 100, 3), np.uint8)
        image = Image.fromarray(small).resize((10_000, 10_000), Image.Resampling.BILINEAR)
        for number in range(3):
            image.save(folder / f"{number}.png", compress_level=1)
            image.save(folder / f"{number}.jpg", quality=85)
            image.save(folder / f"{number}.p.jpg", quality=85, progressive=True)
    return run_ours(_pipeline(work / "big.yaml", str(lake), {"kind": "folder", "path": str(folder)}), lake).megabytes


def _pipeline(file: Path, lake: str, dataset: dict[str, object]) -> Path:
    document = {
        "lake": lake,
        "datasets": {"pictures": dataset},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "media": {"max_pixels": MAX_PIXELS, "quality": QUALITY},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
    }
    file.write_text(yaml.safe_dump(document))
    return file


def _web_pipeline(file: Path, lake: Path, urls: Path) -> Path:
    manners = {"allow_hosts": ["127.0.0.1"], "per_host": 64, "per_second": 1e6}
    return _pipeline(file, str(lake), {"kind": "url_list", "path": str(urls), "web": manners})


T = TypeVar("T")


@dataclass(frozen=True)
class _Pair(Generic[T]):
    """Ours and the other's, one right after the other, and the share of the cores' time that others had meanwhile."""

    ours: T
    other: T
    disturbance: float


def _pairs(ours: Callable[[], T], other: Callable[[], T], wanted: int) -> Turns[_Pair[T]]:
    """Pairs in turn."""

    def turn() -> _Pair[T]:
        with Disturbance() as disturbance:
            theirs, mine = other(), ours()
        return _Pair(mine, theirs, disturbance.share)

    return calm_turns(turn, wanted)


def _row(table: Table, name: str, turns: Turns[_Pair[T]], rate: Callable[[T], float], wanted: str) -> None:
    """One line for the pairs that count, and one for all of them where some were left out."""
    for told, pairs in ((name, turns.kept), *([(f"  {turns.told}; all", turns.made)] if turns.told else [])):
        ours, other = (
            [rate(value) for value in values] for values in zip(*((pair.ours, pair.other) for pair in pairs))
        )
        ratios = [one / another for one, another in zip(ours, other)]
        middle = [f"{statistics.median(values):.1f}" for values in (ours, other)]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        table.add_row(told, *middle, f"{statistics.median(ratios):.2f}", spread, wanted if pairs is turns.kept else "")


def compare(work: Path, pictures: int, repetitions: int) -> None:
    """Measure all of it and print the table."""
    files = write_photographs(work / "photographs", pictures)
    table = Table("pictures a second", "ours", "other", "ratio", "range", "wanted")
    peer = img2dataset(work / "environment")
    urls = work / "urls.txt"
    with server(work / "photographs") as base:
        urls.write_text("".join(f"{base}/{file.name}\n" for file in files))
        pipeline = _web_pipeline(work / "web.yaml", work / "web_lake", urls)
        commands = _pairs(
            lambda: run_ours(pipeline, work / "web_lake"), lambda: run_peer(peer, urls, work), repetitions
        )
    _row(table, "web, steady / img2dataset", commands, lambda outcome: outcome.steady, "1.4")
    _row(table, "web, whole / img2dataset", commands, lambda outcome: outcome.whole, "1.6")
    _row(table, "CPU ms a picture / img2dataset", commands, lambda outcome: outcome.cpu, "")
    for name, kernel in (("bicubic", cv2.INTER_CUBIC), ("area", cv2.INTER_AREA)):
        loops = _pairs(partial(local_shard, files, work), partial(bare_loop, files, kernel), repetitions)
        _row(table, f"local / bare, {name}", loops, lambda rate: rate, "0.8")
    console = Console()
    console.print(table)
    quality = psnr(files[:200])
    console.print(f"PSNR: median {statistics.median(quality):.1f} dB, worst {min(quality):.1f} dB (wanted: 42, 30)")
    held = max(pair.ours.megabytes for pair in commands.made)
    console.print(f"memory: {held:.0f} MB; of 100 megapixels: {big_pictures(work):.0f} MB")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "caption-assets-ingest-benchmark")
    parser.add_argument("--ingest", metavar="PIPELINE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ingest:
        ingest(arguments.ingest)
    else:
        arguments.work.mkdir(parents=True, exist_ok=True)
        compare(arguments.work, arguments.pictures, arguments.repetitions)


if __name__ == "__main__":
    main()
