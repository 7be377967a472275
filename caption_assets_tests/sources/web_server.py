"""A web server on loopback that misbehaves as the tests ask, and names that lead where the tests say."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

Answer = Callable[[web.Request], web.StreamResponse | None]


class Names(AbstractResolver):
    """Resolves names by a table."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name.replace("_", "."): address for name, address in addresses.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The table's address."""
        address = self.addresses.get(host)
        if address is None:
            raise OSError("no such name")
        found = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(hostname=host, host=address, port=port, family=found, proto=0, flags=socket.AI_NUMERICHOST)
        ]

    async def close(self) -> None:
        """Nothing to close."""


class WebServer:
    """Answers by path, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.otherwise: Answer | None = None
        self.asked: list[str] = []
        self.times: list[float] = []
        self.agents: set[str] = set()
        self.peers: set[object] = set()
        self.now = self.most = self.port = 0
        self.delay = 0.0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """URL of a path."""
        return f"http://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.asked.append(request.path)
        self.times.append(time.monotonic())
        self.agents.add(request.headers.get("User-Agent", ""))
        self.peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
            answer = self.answers.get(request.path, self.otherwise)
            found = answer(request) if answer else None
            return found if found is not None else web.Response(status=404)
        finally:
            self.now -= 1


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A server on a free port of loopback."""
    server = WebServer()
    with served(server.handle) as server.port:
        yield server


@contextmanager
def served(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Iterator[int]:
    """The port of loopback on which requests are handled, in a thread of its own."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:(?s:.*)}", handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
