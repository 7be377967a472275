"""Where a sensor stands, as the cursor that Dagster keeps for it.

Nothing is lost with it: what is planned, waits or was seen stands elsewhere. Without a cursor the scan begins anew, and
shards without media are handed over again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 3


@dataclass
class Round:
    """A scan of everything, over many ticks."""

    id: str
    ranges: list[tuple[str, str]]
    """What is left to be listed: places after which, and up to which; "" is the beginning, and the end."""
    first: int
    """The number of the first shard that was not planned when the round began."""
    seconds: float = 0.0
    """Time spent on it."""
    listed: int = 0
    """Items that it has seen."""
    new: int = 0
    """How many of them were new."""
    whole: bool = True
    """Whether it can tell what is gone: nothing of it was lost on the way."""


@dataclass
class Cursor:
    """Where a sensor stands."""

    handed_over: int = -1
    """The number of the last shard for which a run was requested; -1: none."""
    round: Round | None = None
    rest_until: float = 0.0
    """No new round before this time, in seconds since 1970."""
    listed: int = 0
    """Items that the last round saw."""
    long: bool = False
    """Whether the last round took more than the scan's share of an idle tick."""
    look: str = ""
    """Names what is kept of a folder's times; "": nothing."""
    ends: dict[str, str] = field(default_factory=dict)
    """By folder, the place behind which keys that sort by arrival are looked for."""
    source: str | None = None
    """The version of a list of pictures that is planned as a whole."""
    source_at: float = 0.0
    """When it was read last."""
    day: str = ""
    """The day of `small`."""
    small: int = 0
    """Shards of that day that were closed before they were full."""

    def dump(self) -> str:
        """As JSON."""
        return json.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a cursor. An older one says what was handed over; of what is none, nothing is taken."""
        try:
            value = json.loads(text or "")
            if value["version"] in range(1, VERSION):
                return cls(int(value["handed_over"]))
            return cls._of(value) if value["version"] == VERSION else cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Cursor:
        found = cls(
            int(value["handed_over"]),
            None,
            float(value["rest_until"]),
            int(value["listed"]),
            bool(value["long"]),
            str(value["look"]),
            {str(folder): str(end) for folder, end in value["ends"].items()},
            None if value["source"] is None else str(value["source"]),
            float(value["source_at"]),
            str(value["day"]),
            int(value["small"]),
        )
        if given := value["round"]:
            ranges = [(str(after), str(until)) for after, until in given["ranges"]]
            numbers = float(given["seconds"]), int(given["listed"]), int(given["new"])
            found.round = Round(str(given["id"]), ranges, int(given["first"]), *numbers, bool(given["whole"]))
        return found
