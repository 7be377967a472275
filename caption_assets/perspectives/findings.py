"""Findings: what is wrong with a perspective file, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One defect of a perspective file. Errors make it unusable; warnings and notes do not.

    `file` is None for a finding about no file, `field` is empty for one about the whole file.
    """

    level: Level
    file: Path | None
    field: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.told}"

    @property
    def told(self) -> str:
        """Where it is, what it is and what to do: all but the level."""
        text = ": ".join(str(part) for part in (self.file, self.field, self.message) if part)
        return f"{text}. {self.remedy}" if self.remedy else text


class LibraryError(Exception):
    """A perspective library that cannot be used; `findings` names every error in it, not just the first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(finding.told for finding in findings))
        self.findings = list(findings)


class SelectionError(Exception):
    """A selection of perspectives (enabled names and inputs) that cannot run; `name` is the one at fault."""

    def __init__(self, name: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}. {remedy}")
        self.name = name
        self.message = message
        self.remedy = remedy


def closest(name: str, known: Iterable[str]) -> str:
    """Suggest known names like `name`: `Did you mean "a" or "b"?`, or nothing if none is close."""
    matches = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.7)
    return f"Did you mean {' or '.join(quote(match) for match in matches)}?" if matches else ""


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """Suggest known names like `name`, or list all of them if none is close."""
    names = sorted(known)
    return closest(name, names) or f"{what}: {', '.join(names) if names else 'none'}."


def quote(text: str) -> str:
    """Quote a name for a message."""
    return f'"{text}"'
