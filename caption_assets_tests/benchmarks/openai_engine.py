"""How much of a server's ideal rate the whole caption op reaches: run this module.

A stub server of fixed latency runs in a process of its own; the op reads pictures from a lake, asks, validates and
writes rows, as in any run. The ideal is the number of requests in flight divided by the latency. Printed are medians:
captions/s from the first request that the server saw to the last file of the op, their ratio to the ideal, and the CPU
time of the client a request.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media
from caption_assets.sources.planner import open_source, plan_dataset

TARGETS = {64: 0.93, 256: 0.75}
_CONTENT = json.dumps({"caption": "A large red circle at the top left on a white background.", "tags": ["red circle"]})
_SIDE = 348


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, _server(options.latency) as (port, control):
        config, shards = _prepare(Path(folder), port, options.pictures)
        for in_flight in options.in_flight:
            runs = [_run(config, shards, in_flight, number, control) for number in range(options.runs)]
            ideal = in_flight / options.latency
            rate = statistics.median(done / seconds for done, seconds, _ in runs)
            cpu = statistics.median(1000 * cpu / done for done, _, cpu in runs)
            spread = ", ".join(f"{done / seconds / ideal:.3f}" for done, seconds, _ in runs)
            print(
                f"{in_flight} in flight: {rate:.0f} captions/s, {rate / ideal:.3f} of the ideal {ideal:.0f} "
                f"({spread}), "
                f"{cpu:.2f} CPU ms a request; target {TARGETS.get(in_flight, 0)}",
                flush=True,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(TARGETS))
    return parser.parse_args()


def _prepare(folder: Path, port: int, count: int) -> tuple[PipelineConfig, list[Shard]]:
    """A lake with the media of so many pictures of about 60 KB."""
    pictures = folder / "pictures"
    pictures.mkdir()
    sizes = []
    for number in range(count):
        data = _picture(number)
        sizes.append(len(data))
        (pictures / f"{number:06}.jpg").write_bytes(data)
    document = {
        "lake": "./lake",
        "datasets": {"demo": {"kind": "folder", "path": "pictures", "shard_size": 1000, "settle_seconds": 0}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "openai", "model": "stub", "servers": [f"http://127.0.0.1:{port}/v1"]}},
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    config = load_config(file)
    lake = Lake(config.lake)
    source = open_source(config, "demo")
    shards = plan_dataset(lake, "demo", source, config.datasets["demo"].shard_size).shards
    for shard in shards:
        build_media(lake, shard, source, config.media, "ingest")
    print(f"{count} pictures, {statistics.mean(sizes) / 1000:.0f} KB each, in {len(shards)} shards", flush=True)
    return config, shards


def _picture(number: int) -> bytes:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 255, (_SIDE // 4, _SIDE // 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _run(
    config: PipelineConfig, shards: list[Shard], in_flight: int, number: int, control: Connection
) -> tuple[int, float, float]:
    """Captions, seconds from the first request to the last file, CPU seconds."""
    engine = config.engines["default"].model_copy(update={"max_in_flight": in_flight})
    config = config.model_copy(update={"engines": {"default": engine}})
    bound = bind_perspectives(config)
    control.send("first?")
    control.recv()
    cpu = time.process_time()
    run = CaptionRun(
        config, Lake(config.lake), list(bound.values()), bound, shards, f"{in_flight}-{number}", force=True
    )
    done = sum(look.done for report in run for look in report.looks.values())
    ended = time.monotonic()
    cpu = time.process_time() - cpu
    control.send("first?")
    return done, ended - float(control.recv()), cpu


@contextmanager
def _server(latency: float) -> Iterator[tuple[int, Connection]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(latency, theirs), daemon=True)
    process.start()
    try:
        yield int(ours.recv()), ours
    finally:
        process.kill()
        process.join()


def _serve(latency: float, control: Connection) -> None:
    asyncio.run(_Stub(latency, control).run())


class _Stub:
    """Counts bytes until a request is complete, and answers it after the latency: as cheap as a server can be."""

    def __init__(self, latency: float, control: Connection) -> None:
        self.latency, self._control = latency, control
        self.first: float | None = None
        usage = {"prompt_tokens": 300, "completion_tokens": 30}
        choice = {"index": 0, "message": {"role": "assistant", "content": _CONTENT}, "finish_reason": "stop"}
        body = json.dumps({"id": "chatcmpl-1", "model": "stub", "choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = head.encode() + body

    async def run(self) -> None:
        """Serve, and tell who asks when the first request since the last question came."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self._control.send(server.sockets[0].getsockname()[1])
        loop.add_reader(self._control.fileno(), self._told)
        await server.serve_forever()

    def _told(self) -> None:
        try:
            self._control.recv()
        except EOFError:
            os._exit(0)
        self._control.send(self.first)
        self.first = None


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, stub: _Stub) -> None:
        self._stub = stub
        self._buffer = bytearray(256 << 10)
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def buffer_updated(self, count: int) -> None:
        if self._left:
            self._left -= count
        else:
            self._head += bytes(self._buffer[:count])
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self._left = length - len(rest)
            self._stub.first = self._stub.first or time.monotonic()
        if not self._left:
            asyncio.get_running_loop().call_later(self._stub.latency, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._stub.answer)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
