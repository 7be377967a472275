"""The bytes of a request, put together from a template: a picture is encoded once and never escaped again."""

from __future__ import annotations

import asyncio
import binascii
import io
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from caption_assets.config import SentImage
from caption_assets.engine.protocol import EngineRequest

Format = Literal["json_schema", "json_object", "prompt"]
FORMATS: tuple[Format, ...] = ("json_schema", "json_object", "prompt")
"""How a server is told the schema, best first."""

_CACHE_BYTES = 64 << 20
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_IN_WORDS = "\n\nAnswer with one JSON object and nothing else. It must be valid against this JSON Schema:\n"


class PictureCache:
    """Pictures as parts of a message, by the name of their pixels; those not used for longest go first.

    Args:
        image: the format in which pictures are sent.
        capacity: bytes kept.
    """

    def __init__(self, image: SentImage, capacity: int = _CACHE_BYTES) -> None:
        self._image, self._capacity = image, capacity
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._making: dict[str, asyncio.Future[bytes]] = {}
        self._size = 0

    async def part(self, request: EngineRequest) -> bytes:
        """The picture of a request as JSON, a comma behind it; empty where it has none."""
        if request.image is None and request.image_file is None:
            return b""
        if request.image_id is None:
            return await self._make(request)
        if (part := self._parts.get(request.image_id)) is not None:
            self._parts.move_to_end(request.image_id)
            return part
        if self._as_it_is(request):
            part = await self._make(request)
            self._put(request.image_id, part)
            return part
        making = self._making.get(request.image_id)
        if making is None:
            making = asyncio.ensure_future(self._make(request))
            self._making[request.image_id] = making
            making.add_done_callback(lambda done, key=request.image_id: self._keep(key, done))  # type: ignore[misc]
        return await asyncio.shield(making)

    def _as_it_is(self, request: EngineRequest) -> bool:
        return request.image_file is not None and request.image_file.startswith(_MAGIC[self._image.format])

    async def _make(self, request: EngineRequest) -> bytes:
        stored = request.image_file
        if stored is None or not self._as_it_is(request):
            stored = await asyncio.get_running_loop().run_in_executor(None, _encode, request, self._image)
        head = f'{{"type":"image_url","image_url":{{"url":"data:image/{self._image.format};base64,'.encode()
        return b"".join((head, binascii.b2a_base64(stored, newline=False), b'"}},'))

    def _keep(self, key: str, done: asyncio.Future[bytes]) -> None:
        del self._making[key]
        if done.cancelled() or done.exception():
            return
        self._put(key, done.result())

    def _put(self, key: str, part: bytes) -> None:
        self._size += len(part) - len(self._parts.get(key, b""))
        self._parts[key] = part
        while self._size > self._capacity:
            self._size -= len(self._parts.popitem(last=False)[1])


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


@dataclass(frozen=True)
class Schema:
    """A JSON Schema in the ways in which a server can be told it."""

    response_format: bytes
    words: str


class Template:
    """Writes the bodies of an engine's requests.

    Args:
        model: the model's name.
        extra_body: fields that go into each request.
    """

    def __init__(self, model: str, extra_body: dict[str, Any]) -> None:
        self._head = b'{"model":' + _json(model) + b',"messages":[{"role":"user","content":['
        self._extra = extra_body
        self._schemas: dict[int, tuple[dict[str, Any], Schema]] = {}
        self._tails: dict[tuple[object, ...], bytes] = {}

    def body(self, request: EngineRequest, picture: bytes, form: Format) -> bytes:
        """A request's body, the picture before the text.

        Args:
            picture: what the picture cache made of it.
            form: how the server is told the schema, if there is one.
        """
        text = request.text
        schema = self._schema(request.json_schema) if request.json_schema is not None else None
        if schema is not None and form != "json_schema":
            text += schema.words  # at the end: what pictures and perspectives share stays a prefix
        parts = (
            self._head,
            picture,
            b'{"type":"text","text":',
            _json(text),
            b"}]}]",
            self._tail(request, schema, form),
        )
        return b"".join(parts)

    def _tail(self, request: EngineRequest, schema: Schema | None, form: Format) -> bytes:
        key = (
            request.temperature, request.top_p, request.top_k, request.max_tokens, request.seed,
            request.repetition_penalty, id(schema), form,
        )  # fmt: skip
        tail = self._tails.get(key)
        if tail is None:
            if len(self._tails) > 1024:
                self._tails.clear()
            tail = self._tails[key] = self._make_tail(request, schema, form)
        return tail

    def _make_tail(self, request: EngineRequest, schema: Schema | None, form: Format) -> bytes:
        fields: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        if request.seed is not None:
            fields["seed"] = request.seed
        # Only where they say something: not every provider knows them.
        if request.top_p != 1.0:
            fields["top_p"] = request.top_p
        if request.top_k > 0:
            fields["top_k"] = request.top_k
        if request.repetition_penalty != 1.0:
            fields["repetition_penalty"] = request.repetition_penalty
        fields |= self._extra
        tail = b"," + _json(fields)[1:-1]
        if schema is not None and form == "json_schema":
            tail += b',"response_format":' + schema.response_format
        elif schema is not None and form == "json_object":
            tail += b',"response_format":{"type":"json_object"}'
        return tail + b"}"

    def _schema(self, document: dict[str, Any]) -> Schema:
        known = self._schemas.get(id(document))
        if known is None:
            if len(self._schemas) > 256:  # somebody makes a new dict for each request
                self._schemas.clear()
                self._tails.clear()
            named = {"name": "caption", "strict": True, "schema": document}
            response_format = _json({"type": "json_schema", "json_schema": named})
            # The document is kept, so that its id stays its own.
            known = (document, Schema(response_format, _IN_WORDS + _json(document).decode()))
            self._schemas[id(document)] = known
        return known[1]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
