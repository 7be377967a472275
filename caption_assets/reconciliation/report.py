"""What a reconciliation found and did."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from caption_assets.lake import layout, tables
from caption_assets.lake.store import Lake, table_bytes

Kind = Literal[
    "unplanned",
    "gone",
    "back",
    "unregistered",
    "no media",
    "segment lost",
    "without plan",
    "partition without plan",
    "retired partition",
    "merge pending",
]
MEANS: dict[Kind, str] = {
    "unplanned": "items of the source that no shard had; planned",
    "gone": "planned items that the source has no longer; marked as departed",
    "back": "departed items that the source has again; marked as back",
    "unregistered": "planned shards that Dagster did not know; registered",
    "no media": "shards without media; run caption_job on them",
    "segment lost": "shards whose segment is absent or too short; materialize their media",
    "without plan": "shards with files and no plan; nobody reads them",
    "partition without plan": "partitions without a plan; delete them in the UI",
    "retired partition": "partitions of shards that were merged; removed",
    "merge pending": "merges that were begun; run consolidation_job",
}
_SHOWN = 10


@dataclass
class Finding:
    """Things of one kind that do not fit."""

    count: int
    repaired: int
    examples: list[str]


@dataclass
class Reconciled:
    """What a reconciliation of a dataset found."""

    dataset: str
    run_id: str
    started_at: datetime
    scanned: int | None = None
    """Items that the source has; None where it could not be read, or is a topic."""
    shards: int = 0
    problem: str = ""
    """Why source and plan were not compared, or nothing was marked."""
    findings: dict[Kind, Finding] = field(default_factory=dict)

    def add(self, kind: Kind, examples: Iterable[str], *, count: int | None = None, repaired: bool) -> None:
        """Take note of a finding; nothing happens where there is none."""
        found = list(examples)
        number = len(found) if count is None else count
        if number:
            self.findings[kind] = Finding(number, number if repaired else 0, found[:_SHOWN])

    @property
    def left(self) -> bool:
        """Whether something is left to do for a person, or a run."""
        return bool(self.problem) or any(each.repaired < each.count for each in self.findings.values())

    def lines(self) -> list[str]:
        """The report for people."""
        scanned = "its source was not compared" if self.scanned is None else f"{self.scanned} items in its source"
        lines = [f"{self.dataset}: {scanned}, {self.shards} shards"]
        lines += [f"  {self.problem}"] if self.problem else []
        for kind, each in self.findings.items():
            more = ", ..." if each.count > len(each.examples) else ""
            lines.append(f"  {each.count} {MEANS[kind]}: {', '.join(each.examples)}{more}")
        return lines if len(lines) > 1 else [f"{lines[0]}; all fits"]

    def save(self, lake: Lake) -> None:
        """Put the report into the lake."""
        row: dict[str, Any] = {
            "run_id": self.run_id,
            "dataset": self.dataset,
            "scanned": self.scanned,
            "shards": self.shards,
            "found": json.dumps({kind: each.count for kind, each in self.findings.items()}),
            "repaired": json.dumps({kind: each.repaired for kind, each in self.findings.items()}),
            "examples": json.dumps({kind: each.examples for kind, each in self.findings.items()}, ensure_ascii=False),
            "problem": self.problem or None,
            "started_at": self.started_at,
            "ended_at": tables.now(),
        }
        path = layout.reconciliation_file(f"{self.started_at:%Y-%m-%d}", self.run_id, self.dataset)
        lake.write(path, table_bytes(tables.table([row], tables.RECONCILIATIONS)))
