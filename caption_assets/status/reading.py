"""The status, read from kept counts: totals always, single shards on demand and in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Any

import duckdb

from caption_assets.captioning.catalog import open_counts
from caption_assets.config import PipelineConfig
from caption_assets.counts.views import UNTOLD, Tell
from caption_assets.lake import tables
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns

STATES = (
    "running",
    "lost",
    "failed",
    "cancelled",
    "queued, no worker",
    "queued",
    "stale",
    "pending",
    "done with errors",
    "done",
)
"""What a shard's stage can be, the most interesting first."""
_SHOWN_FAILURES = 5
_LONGEST_MESSAGE = 300


@dataclass
class Total:
    """A stage, `media` or a perspective, over all shards of a dataset. total = done + failed + missing + stale."""

    dataset: str
    perspective: str
    shards: int = 0
    states: dict[str, int] = field(default_factory=dict)
    """Number of shards by state, in the order of `STATES`."""
    total: int = 0
    done: int = 0
    failed: int = 0
    missing: int = 0
    stale: int = 0
    failure_kinds: dict[str, int] = field(default_factory=dict)
    rate: float = 0.0
    """Pictures a second, of all workers."""
    seconds_to_go: float | None = None
    """For what is missing or stale, at this rate."""
    why: str | None = None
    """What made rows stale."""
    redo_seconds: float | None = None
    """What is missing, stale or failed takes, at the rate of past runs."""
    redo_cost: float | None = None


@dataclass
class Status:
    """All that there is to tell at one moment."""

    at: str
    totals: list[Total]
    workers: list[dict[str, Any]]
    """A row of the view `workers` each."""
    failures: list[dict[str, Any]]
    """The last ones."""
    queue: dict[str, Any]
    shards: list[dict[str, Any]]
    """Rows of the view `status`, the most interesting first: as many as were asked for."""
    shards_left_out: int

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do, and something was done."""
        ended = {"done", "done with errors"}
        return bool(self.totals) and all(set(each.states) <= ended for each in self.totals)


def read_status(
    config: PipelineConfig,
    known: KnownRuns = NOTHING_KNOWN,
    *,
    shards: int = 0,
    seconds: float = inf,
    tell: Tell = UNTOLD,
) -> Status:
    """The status as it is now.

    Args:
        known: what a Dagster instance knows of runs.
        shards: how many rows of single shards are wanted.
        seconds, tell: as for `open_counts`.

    Raises:
        StillCounting: as `open_counts` does.
    """
    with open_counts(config, known=known, seconds=seconds, tell=tell) as views:
        views.execute("CREATE TEMP TABLE now AS FROM status")
        totals = _totals(views)
        order = " ".join(f"WHEN '{state}' THEN {place}" for place, state in enumerate(STATES))
        detail = _rows(views, f"FROM now ORDER BY CASE state {order} END, shard, perspective LIMIT {int(shards)}")
        count = _rows(views, "SELECT count(*) AS n FROM now")[0]["n"]
        return Status(
            _plain(tables.now()),
            totals,
            _rows(views, "FROM workers"),
            _failures(views),
            known.queue(),
            detail,
            count - len(detail) if shards else 0,
        )


def _totals(views: duckdb.DuckDBPyConnection) -> list[Total]:
    found: dict[tuple[str, str], Total] = {}
    sums = """
        SELECT dataset, perspective, state, count(*) AS shards, sum(total) AS total, sum(done) AS done,
               sum(failed) AS failed, sum(missing) AS missing, sum(stale) AS stale, sum(rate) AS rate,
               string_agg(DISTINCT why, '; ' ORDER BY why) AS why, sum(redo_seconds) AS redo_seconds,
               sum(redo_cost) AS redo_cost
        FROM now GROUP BY dataset, perspective, state ORDER BY dataset, perspective <> 'media', perspective
    """
    for row in sorted(_rows(views, sums), key=lambda row: STATES.index(row["state"])):
        each = found.setdefault((row["dataset"], row["perspective"]), Total(row["dataset"], row["perspective"]))
        each.states[row["state"]] = row["shards"]
        for name in ("shards", "total", "done", "failed", "missing", "stale"):
            setattr(each, name, getattr(each, name) + int(row[name]))
        each.rate += row["rate"] or 0.0
        each.why = "; ".join(sorted({*(each.why or "").split("; "), *(row["why"] or "").split("; ")} - {""})) or None
        for name in ("redo_seconds", "redo_cost"):
            if row[name] is not None:
                setattr(each, name, (getattr(each, name) or 0.0) + row[name])
    kinds = """
        SELECT dataset, perspective, kind.key AS kind, sum(kind.value) AS n
        FROM (SELECT dataset, perspective, unnest(map_entries(failure_kinds)) AS kind FROM now WHERE failed > 0)
        GROUP BY ALL ORDER BY n DESC, kind
    """
    for row in _rows(views, kinds):
        found[row["dataset"], row["perspective"]].failure_kinds[row["kind"]] = int(row["n"])
    for each in found.values():
        if each.rate > 0:
            each.seconds_to_go = (each.missing + each.stale) / each.rate
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] != "media", key[1]))]


def _failures(views: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    return _rows(
        views,
        f"""SELECT dataset, shard, stage AS perspective, picture, kind,
                   left(message, {_LONGEST_MESSAGE}) AS message, created_at AS at
        FROM rows.last_failures ORDER BY created_at DESC, shard LIMIT {_SHOWN_FAILURES}""",
    )


def _rows(views: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    result = views.execute(sql)
    names = [column[0] for column in result.description]
    return [{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in result.fetchall()]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    return dict(value) if isinstance(value, Mapping) else value
