"""A proxy before an HTTP server that lets a share of the requests fail, before or after they were carried out."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

Misdeed = Literal["500", "503", "reset", "lost answer", "500 after all", "half an answer"]
MISDEEDS: tuple[Misdeed, ...] = ("500", "503", "reset", "lost answer", "500 after all", "half an answer")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


class FlakyProxy:
    """A proxy in a thread of its own; a context manager. `share` and `misdeeds` may be changed while it runs.

    Args:
        target: URL of the server.
        share: the share of requests that fail.
        seed: decides which.
    """

    def __init__(self, target: str, share: float, seed: int) -> None:
        self.share, self.misdeeds = share, MISDEEDS
        self.requests = 0
        self.failed: Counter[str] = Counter()
        self._target, self._chance = target, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)

    def __enter__(self) -> FlakyProxy:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, shutdown_timeout=0.0, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._ready.set()
            await self._stopping.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        fails = self._chance.random() < self.share
        misdeed = self._chance.choice(self.misdeeds) if fails else None
        if misdeed is not None:
            self.failed[misdeed] += 1
        match misdeed:
            case "500" | "503":
                return _refusal(int(misdeed))
            case "reset":
                return _reset(request)
        status, headers, answer = await self._forward(request, body)
        match misdeed:
            case "lost answer":
                return _reset(request)
            case "500 after all":
                return _refusal(500)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if misdeed == "half an answer":
            await response.write(answer[: len(answer) // 2])
            return _reset(request)
        await response.write(answer)
        await response.write_eof()
        return response

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = self._target + request.raw_path
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as answer:
            told = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            return answer.status, told, await answer.read()


def _refusal(status: int) -> web.Response:
    code = {500: "InternalError", 503: "SlowDown"}[status]
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Try again.</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
