"""How much of a server's ideal rate the whole caption op reaches: run this module.

A stub server of fixed latency runs in a process of its own; the op reads pictures from a lake, asks, validates and
writes rows, as in any run. The ideal is the number of requests in flight divided by the latency. Printed are medians:
captions/s from the first request that the server saw to the last file of the op, their ratio to the ideal, and the CPU
time of the client a request. In turn with it aiohttp does nothing but post the same pictures and read the answers: so
much a core can reach.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import yaml
from PIL import Image

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests.support import ingest

TARGETS = {64: 0.93, 256: 0.75}
_CONTENT = json.dumps({"caption": "A large red circle at the top left on a white background.", "tags": ["red circle"]})
_SIDE = 348


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, stub_server() as stub:
        draw_pictures(Path(folder) / "pictures", options.pictures)
        config, shards = prepare(Path(folder), stub)
        for in_flight in options.in_flight:
            runs, bare = [], []
            for _ in range(options.runs):
                runs.append(measure(config, shards, stub, in_flight, options.latency))
                bare.append(measure_bare(Path(folder) / "pictures", stub, in_flight, options.latency))
            tell(f"{in_flight} in flight", runs, in_flight / options.latency, f"; target {TARGETS.get(in_flight, 0)}")
            tell("  bare aiohttp", bare, in_flight / options.latency)
            ratio = statistics.median(run.rate / other.rate for run, other in zip(runs, bare, strict=True))
            print(f"  op / bare: {ratio:.3f}", flush=True)


def tell(what: str, runs: Sequence[Outcome], ideal: float, more: str = "") -> None:
    """Print a line."""
    rate, cpu = (statistics.median(getattr(run, name) for run in runs) for name in ("rate", "cpu"))
    spread = ", ".join(f"{run.rate / ideal:.3f}" for run in runs)
    print(
        f"{what}: {rate:.0f} captions/s, {rate / ideal:.3f} of the ideal {ideal:.0f} ({spread}), "
        f"{cpu:.2f} CPU ms a request{more}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(TARGETS))
    return parser.parse_args()


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    rate: float
    """Captions a second, from the first request that the server saw to the op's last file."""
    cpu: float
    """Milliseconds of the client's processor time a caption."""


class StubServer:
    """The stub, as seen from the process that started it."""

    def __init__(self, port: int, control: Connection) -> None:
        self.port, self._control = port, control

    def ask(self, latency: float) -> tuple[float | None, int]:
        """When the first request since the last question came (time.monotonic), and how many have come since.

        Args:
            latency: seconds that each request from now on takes.
        """
        self._control.send(latency)
        first, requests = self._control.recv()
        return first, requests


def draw_pictures(folder: Path, count: int) -> None:
    """So many JPEGs of about 60 KB."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(_picture(number))


def prepare(folder: Path, stub: StubServer, *, shard_size: int = 1000) -> tuple[PipelineConfig, list[Shard]]:
    """A lake with the media of the folder's `pictures`, and a pipeline that asks the stub about them."""
    document = {
        "lake": "./lake",
        "datasets": {"demo": {"kind": "folder", "path": "pictures", "shard_size": shard_size, "settle_seconds": 0}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "openai", "model": "stub", "servers": [f"http://127.0.0.1:{stub.port}/v1"]}},
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    config = load_config(file)
    shards = ingest(config, Lake(config.lake))
    sizes = [picture.stat().st_size for picture in (folder / "pictures").iterdir()]
    print(f"{len(sizes)} pictures, {statistics.mean(sizes) / 1000:.0f} KB each, in {len(shards)} shards", flush=True)
    return config, shards


def _picture(number: int) -> bytes:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 255, (_SIDE // 4, _SIDE // 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(
    config: PipelineConfig, shards: Sequence[Shard], stub: StubServer, in_flight: int, latency: float
) -> Outcome:
    """Caption all pictures of the shards, whether or not they have captions."""
    stub.ask(latency)
    cpu = time.process_time()
    done = caption_all(config, shards, in_flight, force=True)
    ended = time.monotonic()
    cpu = time.process_time() - cpu
    first, _ = stub.ask(latency)
    assert first is not None
    return Outcome(done / (ended - first), 1000 * cpu / done)


def measure_bare(pictures: Path, stub: StubServer, in_flight: int, latency: float) -> Outcome:
    """Post every picture as the engine does, and do nothing else."""
    stub.ask(latency)
    cpu, files = time.process_time(), sorted(pictures.iterdir())
    asyncio.run(_post_all(files, f"http://127.0.0.1:{stub.port}/v1/chat/completions", in_flight))
    ended, cpu = time.monotonic(), time.process_time() - cpu
    first, _ = stub.ask(latency)
    assert first is not None
    return Outcome(len(files) / (ended - first), 1000 * cpu / len(files))


async def _post_all(files: Sequence[Path], url: str, in_flight: int) -> None:
    left = iter(files)

    async def work(session: aiohttp.ClientSession) -> None:
        for file in left:
            picture = b"data:image/jpeg;base64," + base64.b64encode(file.read_bytes())
            part = b'{"type":"image_url","image_url":{"url":"%s"}}' % picture
            body = b'{"model":"stub","messages":[{"role":"user","content":[%s]}]}' % part
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                json.loads(await response.read())

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))


def caption_all(config: PipelineConfig, shards: Sequence[Shard], in_flight: int, *, force: bool = False) -> int:
    """Run the caption op; gives the number of captions that it wrote."""
    engine = config.engines["default"].model_copy(update={"max_in_flight": in_flight})
    config = config.model_copy(update={"engines": {"default": engine}})
    bound = bind_perspectives(config)
    run_id = uuid.uuid4().hex
    run = CaptionRun(config, Lake(config.lake), list(bound.values()), bound, shards, run_id, force=force)
    return sum(look.done for report in run for look in report.looks.values())


@contextmanager
def stub_server() -> Iterator[StubServer]:
    """A server in a process of its own that answers every request with the same caption."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield StubServer(int(ours.recv()), ours)
    finally:
        process.kill()
        process.join()


def _serve(control: Connection) -> None:
    asyncio.run(_Stub(control).run())


class _Stub:
    """Counts bytes until a request is complete, and answers it after the latency: as cheap as a server can be."""

    def __init__(self, control: Connection) -> None:
        self.latency, self._control = 0.0, control
        self.first: float | None = None
        self.requests = 0
        usage = {"prompt_tokens": 300, "completion_tokens": 30}
        choice = {"index": 0, "message": {"role": "assistant", "content": _CONTENT}, "finish_reason": "stop"}
        self.answer = _http({"id": "chatcmpl-1", "model": "stub", "choices": [choice], "usage": usage})
        self.models = _http({"object": "list", "data": [{"id": "stub", "object": "model", "owned_by": "stub"}]})

    async def run(self) -> None:
        """Serve, and tell who asks what came since the last question."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self._control.send(server.sockets[0].getsockname()[1])
        loop.add_reader(self._control.fileno(), self._told)
        await server.serve_forever()

    def _told(self) -> None:
        try:
            self.latency = self._control.recv()
        except EOFError:
            os._exit(0)
        self._control.send((self.first, self.requests))
        self.first, self.requests = None, 0


def _http(document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


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
            if head.startswith(b"GET"):  # the engine wants to know whose server this is
                self._transport.write(self._stub.models)  # type: ignore[attr-defined]
                return
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self._left = length - len(rest)
            self._stub.first = self._stub.first or time.monotonic()
            self._stub.requests += 1
        if not self._left:
            asyncio.get_running_loop().call_later(self._stub.latency, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._stub.answer)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
