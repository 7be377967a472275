"""The bytes of a request, put together from a template: what requests share is written once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from caption_assets.engine.protocol import EngineRequest

Limit = Literal["max_tokens", "max_completion_tokens"]
"""How a server is told how long the answer may be."""

Format = Literal["json_schema", "json_object", "prompt"]
FORMATS: tuple[Format, ...] = ("json_schema", "json_object", "prompt")
"""How a server is told the schema, best first."""

_IN_WORDS = "\n\nAnswer with one JSON object and nothing else. It must be valid against this JSON Schema:\n"


@dataclass(frozen=True)
class Schema:
    """A JSON Schema in the ways in which a server can be told it."""

    response_format: bytes
    words: str


class Pieces(Payload):
    """The body of a request, joined as it is sent: a call of the system for each piece takes longer than one copy.

    Args:
        pieces: bytes of JSON.
    """

    _autoclose = True

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The JSON as a text."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it."""
        await writer.write(b"".join(self._value))


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

    def body(
        self, request: EngineRequest, picture: Sequence[bytes], form: Format, limit: Limit = "max_tokens"
    ) -> Pieces:
        """A request's body, the picture before the text.

        Args:
            picture: its part of the message, in pieces.
            form: how the server is told the schema, if there is one.
            limit: how it is told `max_tokens`.
        """
        text = request.text
        schema = self._schema(request.json_schema) if request.json_schema is not None else None
        if schema is not None and form != "json_schema":
            text += schema.words  # at the end: what pictures and perspectives share stays a prefix
        tail = self._tail(request, schema, form, limit)
        return Pieces((self._head, *picture, b'{"type":"text","text":', _json(text), b"}]}]", tail))

    def _tail(self, request: EngineRequest, schema: Schema | None, form: Format, limit: Limit) -> bytes:
        key = (
            request.temperature, request.top_p, request.top_k, request.max_tokens, request.seed,
            request.repetition_penalty, id(schema), form, limit,
        )  # fmt: skip
        tail = self._tails.get(key)
        if tail is None:
            if len(self._tails) > 1024:
                self._tails.clear()
            tail = self._tails[key] = self._make_tail(request, schema, form, limit)
        return tail

    def _make_tail(self, request: EngineRequest, schema: Schema | None, form: Format, limit: Limit) -> bytes:
        fields: dict[str, Any] = {limit: request.max_tokens, "temperature": request.temperature}
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
