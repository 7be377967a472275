"""Where everything is in the lake: the one place that knows its file names."""

from __future__ import annotations

import re
from dataclasses import dataclass

EMPTY = "dataset=_/empty.parquet"
CATALOG = "catalog.duckdb"
CURRENT = "current.json"
RUNS = "runs"
RUNNING = "running"
NO_HEARTBEAT = "empty.json"
OUTBOX = "events/outbox"
LEASES = "events/leases"
KAFKA_LEASES = "events/kafka/leases"
ALERTS = "events/alerts.json"
NEAR_DUPLICATES = "duplicates/pairs.parquet"
NO_NEAR_DUPLICATES = "duplicates/empty.parquet"
TOMBSTONES = "tombstones"
DEPARTURES = "departures"
MERGES = "merges"
RECONCILIATIONS = "reconciliations"

_SHARD = re.compile(r"(?P<dataset>[a-z0-9][a-z0-9._-]*)-(?P<number>\d{6,})")


@dataclass(frozen=True, order=True)
class Shard:
    """A shard's key, taken apart: `<dataset>-<number>`."""

    dataset: str
    number: int

    @property
    def key(self) -> str:
        """The partition key."""
        return f"{self.dataset}-{self.number:06d}"

    @classmethod
    def parse(cls, key: str) -> Shard:
        """Read a partition key. Raises ValueError when it is not a shard's."""
        match = _SHARD.fullmatch(key)
        shard = cls(match["dataset"], int(match["number"])) if match else None
        if shard is None or shard.key != key or ".." in key:  # other spellings of a number would be other partitions
            raise ValueError(f"{key!r} is not a shard: expected <dataset>-<six digits>")
        return shard


def plan_folder(dataset: str) -> str:
    """Folder of a dataset's plan files."""
    return f"shards/dataset={dataset}"


def plan_file(shard: Shard) -> str:
    """A shard's planned items."""
    return f"{plan_folder(shard.dataset)}/{shard.key}.parquet"


def waiting_file(dataset: str) -> str:
    """New items of a dataset that wait for others before they are planned."""
    return f"arrivals/dataset={dataset}/waiting.parquet"


def media_folder(dataset: str) -> str:
    """Folder of a dataset's segments and their indexes."""
    return f"media/dataset={dataset}"


def media_index(shard: Shard) -> str:
    """A shard's media rows."""
    return f"{media_folder(shard.dataset)}/{shard.key}.parquet"


def segment(shard: Shard, generation: int = 0) -> str:
    """A shard's TAR of normalised pictures; a repair writes the next generation."""
    suffix = f".{generation}" if generation else ""
    return f"{media_folder(shard.dataset)}/{shard.key}{suffix}.tar"


def segment_generation(shard: Shard, name: str) -> int | None:
    """The generation of a shard's segment by its file name; None for any other file."""
    match = re.fullmatch(re.escape(shard.key) + r"(?:\.([1-9][0-9]*))?\.tar", name)
    return int(match[1] or 0) if match else None


def fingerprint_folder(perspective: str, fingerprint: str) -> str:
    """Folder of all rows that one form of a perspective produced."""
    return f"captions/perspective={perspective}/fingerprint={fingerprint}"


def captions_folder(perspective: str, fingerprint: str, shard: Shard) -> str:
    """Folder of a shard's rows."""
    return f"{fingerprint_folder(perspective, fingerprint)}/dataset={shard.dataset}/shard={shard.key}"


def forms_folder(perspective: str) -> str:
    """Folder of what the forms of a perspective were made of."""
    return f"forms/perspective={perspective}"


def form_file(perspective: str, fingerprint: str) -> str:
    """What one form of a perspective was made of."""
    return f"{forms_folder(perspective)}/{fingerprint}.json"


def run_forms_file(run_id: str) -> str:
    """The forms of perspectives that a run began with."""
    return f"forms/runs/{run_id}.json"


def failures_file(stage: str, shard: Shard) -> str:
    """A shard's failures of one stage: `media` or a perspective's name."""
    return f"failures/stage={stage}/dataset={shard.dataset}/{shard.key}.parquet"


def departures_folder(dataset: str) -> str:
    """Folder of the marks of a dataset's items that its source no longer has."""
    return f"{DEPARTURES}/dataset={dataset}"


def ledger_folder(dataset: str) -> str:
    """Folder of the ledger of a dataset's merges."""
    return f"{MERGES}/dataset={dataset}"


def ledger_file(dataset: str, version: int) -> str:
    """One version of it; the highest counts."""
    return f"{ledger_folder(dataset)}/{version:09d}.parquet"


def reconciliation_file(day: str, run_id: str, dataset: str) -> str:
    """What one reconciliation of a dataset found. `day` is YYYY-MM-DD."""
    return f"{RECONCILIATIONS}/{day}/{run_id}-{dataset}.parquet"


def run_file(day: str, run_id: str, step: str) -> str:
    """What one step of one run did. `day` is YYYY-MM-DD."""
    return f"{RUNS}/{day}/{run_id}-{step}.parquet"


def heartbeat_file(name: str) -> str:
    """How far one worker is."""
    return f"{RUNNING}/{name}.json"


def export_folder(format_name: str, dataset: str) -> str:
    """Where an export of a dataset goes."""
    return f"exports/{format_name}/{dataset}"


def outbox_file(number: int) -> str:
    """A batch of events, in the order in which they were found."""
    return f"{OUTBOX}/{number:012d}.json"


def lease_file(folder: str, number: int) -> str:
    """The claim of whoever delivers events; the highest number of a folder counts."""
    return f"{folder}/{number:012d}.json"


def published_file(shard: Shard) -> str:
    """Which messages of a shard's pictures Kafka has: 8 bytes of each id."""
    return f"events/kafka/published/dataset={shard.dataset}/{shard.key}.ids"


def receiver_file(receiver: str) -> str:
    """What one receiver of events has, and when it is tried again."""
    return f"events/receivers/{receiver}.json"
