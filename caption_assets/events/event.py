"""One event: what is told of an outcome. `event.schema.json` beside this file documents its JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caption_assets.config.callbacks import EventType

VERSION = 1
SCHEMA_FILE = Path(__file__).parent / "event.schema.json"


@dataclass(frozen=True)
class Event:
    """An outcome. Two events of one id are the same event, told twice."""

    id: str
    type: EventType
    occurred_at: datetime
    datasets: tuple[str, ...]
    """Those it concerns, sorted; none: a job over no dataset in particular."""
    data: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        type_: EventType,
        identity: Iterable[str],
        occurred_at: datetime,
        datasets: Iterable[str],
        data: Mapping[str, Any],
    ) -> Event:
        """An event whose id follows from what it is about (`identity`), not from when it was found."""
        digest = hashlib.sha256(json.dumps([VERSION, type_, *identity]).encode()).hexdigest()
        return cls(digest[:32], type_, occurred_at.astimezone(UTC), tuple(sorted(set(datasets))), data)

    @property
    def lanes(self) -> tuple[str, ...]:
        """In each of these it keeps its place among the events of one receiver."""
        return self.datasets or ("",)

    def document(self) -> dict[str, Any]:
        """The event as JSON has it."""
        return {
            "version": VERSION,
            "id": self.id,
            "type": self.type,
            "occurred_at": timestamp(self.occurred_at),
            "datasets": list(self.datasets),
            "data": dict(self.data),
        }

    def body(self) -> bytes:
        """The body of a request: the same bytes at each attempt."""
        return json.dumps(self.document(), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Event:
        """Read `document()` back."""
        return cls(
            document["id"],
            document["type"],
            datetime.fromisoformat(document["occurred_at"]),
            tuple(document["datasets"]),
            document["data"],
        )


def timestamp(moment: datetime) -> str:
    """A time as events write it: ISO 8601, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
