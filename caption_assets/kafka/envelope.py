"""The JSON envelope of a message, either way. `envelope.schema.json` beside this file documents all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

VERSION = 1
SCHEMA_FILE = Path(__file__).parent / "envelope.schema.json"

UPLOADED = "media.uploaded"
REQUEST = "captions.request"
INCOMING = (UPLOADED, REQUEST)

_LONGEST_REASON = 300


class PoisonError(ValueError):
    """A message that nobody can act on; says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:_LONGEST_REASON])


@dataclass(frozen=True)
class Envelope:
    """A message. Two of one id are the same, told twice."""

    id: str
    type: str
    occurred_at: datetime
    key: str
    """What it is about: messages of one key keep their order within a topic."""
    data: Mapping[str, Any]

    @classmethod
    def of(
        cls, type_: str, identity: Iterable[str | None], occurred_at: datetime, key: str, data: Mapping[str, Any]
    ) -> Envelope:
        """An envelope whose id follows from what it is about (`identity`)."""
        digest = hashlib.sha256(json.dumps([VERSION, type_, *identity]).encode()).hexdigest()
        return cls(digest[:32], type_, occurred_at, key, data)

    def body(self, producer: str) -> bytes:
        """The message's value."""
        document = {
            "version": VERSION,
            "id": self.id,
            "type": self.type,
            "occurred_at": timestamp(self.occurred_at),
            "producer": producer,
            "key": self.key,
            "data": self.data,
        }
        return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def read(value: bytes | None, limit: int) -> Mapping[str, Any]:
    """The envelope of a message that came in, checked against its schema.

    Args:
        value: the message's value.
        limit: bytes above which it is not looked at.

    Raises:
        PoisonError: it is too long, no JSON, or not what the schema says.
    """
    if not value:
        raise PoisonError("the message is empty")
    if len(value) > limit:
        raise PoisonError(f"the message has {len(value)} bytes, and {limit} are allowed")
    try:
        document = json.loads(value, parse_constant=_no_constant)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # it is to be stored: no 1e999 either
    except (ValueError, RecursionError) as error:
        raise PoisonError(f"the message is no JSON ({type(error).__name__})") from None
    if not isinstance(document, dict):
        raise PoisonError("the message is no JSON object")
    if document.get("type") not in INCOMING:
        raise PoisonError(f"type {str(document.get('type'))[:60]!r} is none of {', '.join(INCOMING)}")
    wrong = next(iter(_validator("incoming").iter_errors(document)), None)
    if wrong:
        where = ".".join(str(step) for step in wrong.absolute_path) or "the message"
        raise PoisonError(f"{where}: {wrong.message}")
    return document


def timestamp(moment: datetime) -> str:
    """A time as envelopes write it: ISO 8601, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@cache
def _validator(definition: str) -> Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text())
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": schema["$defs"]})


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
