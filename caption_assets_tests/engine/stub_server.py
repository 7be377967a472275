"""A chat server on loopback that answers each request by a function of the request, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "stub/model"
_IN_WORDS = "JSON Schema:\n"


@dataclass
class Call:
    """One request, as the stub got it."""

    number: int
    """Of this server's requests, from 0."""
    body: dict[str, Any]
    headers: dict[str, str]
    """By name in lower case."""
    http: web.Request
    seen: int
    """How often a request with this body came before."""

    @property
    def text(self) -> str:
        """The prompt."""
        return str(self.body["messages"][0]["content"][-1]["text"])


Behaviour = Callable[[Call], Awaitable[web.StreamResponse | None]]
"""Misbehaves by returning something, or by raising; None: the usual answer."""


async def well(call: Call) -> web.StreamResponse | None:
    """Answer as usual."""
    del call
    return None


@dataclass
class StubServer:
    """A server in a thread of its own; a context manager. `behave` may be changed while it runs."""

    behave: Behaviour = well
    latency: float = 0.0
    port: int = 0
    keeps: int = 0
    """How many pictures it keeps by name, as vLLM does."""
    calls: list[Call] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most: int = 0
    """Requests under way at once, at most."""
    pictures: list[str] = field(default_factory=list)
    """The pictures that were sent, as URLs."""
    _kept: list[str] = field(default_factory=list)
    _now: int = 0
    _seen: dict[bytes, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> StubServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port if it listened before."""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        """Close the port and all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(30)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        application = web.Application(client_max_size=64 << 20)
        application.router.add_post("/v1/chat/completions", self._complete)
        application.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(application, shutdown_timeout=0.0, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        del request
        owner = "vllm" if self.keeps else "stub"
        return web.json_response({"object": "list", "data": [{"id": MODEL, "owned_by": owner}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            raw = await request.read()
            key = hashlib.sha256(raw).digest()
            seen = self._seen.get(key, 0)
            self._seen[key] = seen + 1
            call = Call(len(self.calls), json.loads(raw), _lower(request), request, seen)
            self.calls.append(call)
            self.times.append(asyncio.get_running_loop().time())
            if (refused := await self._look_at(call)) is not None:
                return refused
            if self.latency:
                await asyncio.sleep(self.latency)
            return await self.behave(call) or web.json_response(completion(call))
        finally:
            self._now -= 1

    async def _look_at(self, call: Call) -> web.Response | None:
        """Take the picture in; None: it is there."""
        for part in call.body["messages"][0]["content"]:
            if part["type"] != "image_url":
                continue
            name = part.get("uuid")
            if name is not None and not self.keeps:
                return web.json_response({"error": {"message": "Unknown parameter: uuid"}}, status=400)
            if part["image_url"] is not None:
                self.pictures.append(part["image_url"]["url"])
                await asyncio.sleep(self.latency if self.keeps else 0)  # it is known once it has been looked at
                self._kept = [*self._kept, name][-self.keeps :] if name else self._kept
            elif name not in self._kept:
                message = "Cache miss for image at index 0 but data is not provided."
                return web.json_response({"error": {"message": message}}, status=400)
        return None


def _lower(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def completion(call: Call, **changes: Any) -> dict[str, Any]:
    """The usual answer: decided by the prompt, the picture and the schema alone."""
    document = schema_of(call)
    content = json.dumps(instance(document, call.text.split("\n\nAnswer with")[0])) if document else "Some words."
    return {
        "id": f"chatcmpl-{call.headers.get('x-request-id', 'none')}",
        "object": "chat.completion",
        "model": call.body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}},
        **changes,
    }


def schema_of(call: Call) -> dict[str, Any] | None:
    """The schema a request asks for, wherever it stands."""
    response_format = call.body.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        return dict(response_format["json_schema"]["schema"])
    _, found, words = call.text.partition(_IN_WORDS)
    return dict(json.loads(words)) if found else None


def instance(schema: dict[str, Any], seed: str) -> Any:
    """A value that is valid against a schema, and follows from the seed."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big")
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    match schema["type"]:
        case "object":
            return {name: instance(each, f"{seed}/{name}") for name, each in schema.get("properties", {}).items()}
        case "array":
            length = max(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
            return [instance(schema["items"], f"{seed}/{index}") for index in range(length)]
        case "boolean":
            return number % 2 == 0
        case "string":
            return f"word {number}"
    low = int(schema.get("minimum", 0))
    return low + number % (int(schema.get("maximum", low + 50)) - low + 1)
