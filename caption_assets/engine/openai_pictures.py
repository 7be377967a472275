"""The pictures of requests: encoded once, and sent once to servers that keep them under a name.

vLLM takes a `uuid` beside an `image_url`, and keeps the processed picture under it for a while; later requests may then
name the picture without sending it, with `image_url: null`. A server that no longer has it refuses such a request.
https://docs.vllm.ai/en/latest/features/multimodal_inputs/
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pybase64
from PIL import Image

from caption_assets.config import SentImage
from caption_assets.engine.openai_pool import Server
from caption_assets.engine.protocol import EngineRequest

How = Literal["plain", "named", "name"]
"""How a picture travels: without a name, with one to be kept under, or as a name that the server knows."""

_CACHE_BYTES = 64 << 20
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_REMEMBERED = 4096
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Picture:
    """A picture as a part of a message: a `data:` URL."""

    head: bytes
    """JSON, up to the picture."""
    encoded: bytes
    """Base64."""

    @cached_property
    def name(self) -> bytes:
        """What servers keep it under: a SHA-256 (32 hex digits) of what is sent, for they outlive what is stored."""
        digest = hashlib.sha256(self.head)
        digest.update(self.encoded)
        return digest.hexdigest()[:32].encode()

    def part(self, how: How) -> tuple[bytes, ...]:
        """The part of a message, a comma behind it, in pieces: what is long is not copied."""
        if how == "plain":
            return self.head, self.encoded, b'"}},'
        if how == "named":
            return self.head, self.encoded, b'"},"uuid":"' + self.name + b'"},'
        return (b'{"type":"image_url","image_url":null,"uuid":"' + self.name + b'"},',)


class Home:
    """Where a picture was sent last, and which servers may have kept it."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self._posted, self._settled = asyncio.Event(), asyncio.Event()
        self._kept: dict[Server, int] = {}
        self._answered: set[Server] = set()
        self._leading = False

    def lead(self) -> bool:
        """Whether this request is the one to send the picture; it has to call `settle` then."""
        kept = self.server is not None and self._kept.get(self.server) == self.server.departures
        if self._leading or kept:
            return False
        self._leading = True
        self._posted.clear()
        self._settled.clear()
        return True

    def how(self, server: Server) -> How:
        """How to send the picture there."""
        if not server.keeps_pictures:
            return "plain"
        return "name" if self._kept.get(server) == server.departures else "named"

    def sent(self, server: Server, how: How) -> None:
        """The picture is on its way to a server."""
        self.server = server
        if how == "named":
            self._answered.discard(server)
            self._kept[server] = server.departures
        self._posted.set()

    def heard(self, server: Server) -> None:
        """A server has answered about it."""
        self._answered.add(server)

    def forget(self, server: Server) -> bool:
        """A server does not have it after all; returns whether it had answered about it, so that it should."""
        self._kept.pop(server, None)
        answered = server in self._answered
        self._answered.discard(server)
        return answered

    def settle(self) -> None:
        """The request that sent it has come to its end."""
        self._leading = False
        self._posted.set()
        self._settled.set()

    async def wait(self) -> None:
        """Let the request that sends the picture go first; it is at its end, or a second old, when this returns."""
        await self._posted.wait()
        if not self._settled.is_set():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                pass


class Homes:
    """The homes of the pictures that were asked about last."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, Home] = OrderedDict()

    def of(self, image_id: str) -> Home:
        """A picture's home."""
        if (home := self._homes.get(image_id)) is not None:
            self._homes.move_to_end(image_id)
            return home
        home = self._homes[image_id] = Home()
        if len(self._homes) > _REMEMBERED:
            self._homes.popitem(last=False)
        return home


class PictureCache:
    """Pictures in the form in which they are sent, by the name of their pixels; those not used for longest go first.

    Args:
        image: the format in which pictures are sent.
        capacity: bytes kept.
    """

    def __init__(self, image: SentImage, capacity: int = _CACHE_BYTES) -> None:
        self._image, self._capacity = image, capacity
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._making: dict[str, asyncio.Future[Picture]] = {}
        self._size = 0

    async def picture(self, request: EngineRequest) -> Picture | None:
        """The picture of a request, if it has one."""
        if request.image is None and request.image_file is None:
            return None
        if request.image_id is None:
            return await self._make(request)
        if (known := self._pictures.get(request.image_id)) is not None:
            self._pictures.move_to_end(request.image_id)
            return known
        if self._as_it_is(request):
            made = await self._make(request)
            self._put(request.image_id, made)
            return made
        making = self._making.get(request.image_id)
        if making is None:
            making = asyncio.ensure_future(self._make(request))
            self._making[request.image_id] = making
            making.add_done_callback(lambda done, key=request.image_id: self._keep(key, done))  # type: ignore[misc]
        return await asyncio.shield(making)

    def clear(self) -> None:
        """Forget them all."""
        self._pictures.clear()
        self._size = 0

    def _as_it_is(self, request: EngineRequest) -> bool:
        return request.image_file is not None and request.image_file.startswith(_MAGIC[self._image.format])

    async def _make(self, request: EngineRequest) -> Picture:
        stored = request.image_file
        if stored is None or not self._as_it_is(request):
            stored = await asyncio.get_running_loop().run_in_executor(None, _encode, request, self._image)
        head = f'{{"type":"image_url","image_url":{{"url":"data:image/{self._image.format};base64,'.encode()
        return Picture(head, pybase64.b64encode(stored))

    def _keep(self, key: str, done: asyncio.Future[Picture]) -> None:
        del self._making[key]
        if done.cancelled() or done.exception():
            return
        self._put(key, done.result())

    def _put(self, key: str, picture: Picture) -> None:
        if (before := self._pictures.get(key)) is not None:
            self._size -= len(before.encoded)
        self._size += len(picture.encoded)
        self._pictures[key] = picture
        while self._size > self._capacity:
            self._size -= len(self._pictures.popitem(last=False)[1].encoded)


def _encode(request: EngineRequest, image: SentImage) -> bytes:
    """A picture's file in the format that is sent."""
    source = request.image
    if source is None:
        assert request.image_file is not None
        source = Image.open(io.BytesIO(request.image_file))
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": image.quality} if image.format == "jpeg" else {"compress_level": 1}
    source.convert("RGB").save(buffer, image.format, **options)
    return buffer.getvalue()
