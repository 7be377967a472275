"""The status as a person sees it: tables with progress bars, and a line where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from caption_assets.status.reading import STATES, Status, Total

_STYLES = {
    "running": "cyan",
    "lost": "red",
    "failed": "red",
    "cancelled": "yellow",
    "queued, no worker": "red",
    "queued": "cyan",
    "stale": "yellow",
    "done with errors": "yellow",
    "done": "green",
}
_SHOWN_WORKERS = 10
_BAR = 12
_WORDS = {"failed", "shards", "at", "error", "picture", "why", "last failures"}
"""Columns of text."""


def screen(status: Status) -> RenderableType:
    """Everything, the totals first."""
    return Group(*_parts(status))


def in_a_line(status: Status) -> str:
    """The totals in a line for each dataset, for a log."""
    datasets: dict[str, list[str]] = {}
    for each in status.totals:
        rate = f" {each.rate:.1f}/s" if each.rate else ""
        to_go = f" {_duration(each.seconds_to_go)} to go" if each.seconds_to_go else ""
        failed = f" {each.failed} failed" if each.failed else ""
        told = (
            f"{each.perspective} {each.done + each.failed}/{each.total}{failed}{rate}{to_go} ({_states(each.states)})"
        )
        datasets.setdefault(each.dataset, []).append(told)
    lines = [f"{name}: {'; '.join(told)}" for name, told in datasets.items()] or ["nothing is planned yet"]
    return "\n".join(f"{status.at[:19]}Z {line}" for line in [*lines, *_queue(status.queue)])


def to_do(status: Status) -> list[str]:
    """A line for what is not up to date: how much, why, and what it takes at the rate of past runs."""
    lines = []
    for each in status.totals:
        counts = {"missing": each.missing, "stale": each.stale, "failed": each.failed}
        if not (each.stale if each.perspective == "media" else any(counts.values())):
            continue
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        takes = f", about {_duration(each.redo_seconds)}" if each.redo_seconds is not None else ""
        cost = f" and {each.redo_cost:.2f} in the engine's currency" if each.redo_cost is not None else ""
        why = f" ({each.why})" if each.why else ""
        lines.append(f"{each.dataset}, {each.perspective}: {told}{why}{takes}{cost}")
    return lines


def _parts(status: Status) -> Iterator[RenderableType]:
    if not status.totals:
        yield Text("Nothing is planned yet: run ingest_job.")
    yield _totals(status.totals)
    if status.shards:
        yield _shards(status)
    if status.workers:
        yield _workers(status.workers)
    if status.failures:
        yield _failures(status.failures)
    for line in [*to_do(status), *_queue(status.queue)]:
        yield Text(line)


def _totals(totals: list[Total]) -> Table:
    table = _table("dataset", "perspective", "", "pictures", "failed", "rate", "to go", "shards")
    for each in totals:
        table.add_row(
            each.dataset,
            each.perspective,
            ProgressBar(total=max(each.total, 1), completed=each.done + each.failed, width=_BAR),
            f"{each.done + each.failed}/{each.total}",
            _kinds(each.failed, each.failure_kinds),
            f"{each.rate:.1f}/s" if each.rate else "",
            _duration(each.seconds_to_go),
            _states(each.states),
        )
    return table


def _shards(status: Status) -> Table:
    names = ("shard", "perspective", "pictures", "missing", "stale", "failed", "rate", "to go", "state")
    table = _table(*names, title=f"{status.shards_left_out} more shards' stages" if status.shards_left_out else None)
    for row in status.shards:
        table.add_row(
            row["shard"],
            row["perspective"],
            f"{row['done'] + row['failed']}/{row['total']}",
            _number(row["missing"]),
            _number(row["stale"]),
            _kinds(row["failed"], row["failure_kinds"] or {}),
            f"{row['rate']:.1f}/s" if row["rate"] else "",
            _duration(row["seconds_to_go"]),
            Text(row["state"], style=_STYLES.get(row["state"], "")),
        )
    return table


def _workers(workers: list[dict[str, Any]]) -> Table:
    left_out = len(workers) - _SHOWN_WORKERS
    title = f"{left_out} earlier workers are not shown" if left_out > 0 else None
    table = _table("worker", "run", "step", "state", "at", "pictures", "rate", "last beat", "error", title=title)
    for row in workers[-_SHOWN_WORKERS:]:
        waiting = f" +{row['shards_waiting']}" if row["shards_waiting"] else ""
        table.add_row(
            row["worker"],
            row["run_id"][:8],
            row["step"],
            Text(row["state"], style=_STYLES.get(row["state"], "")),
            f"{', '.join(row['shards'] or [])}{waiting}",
            f"{row['done'] + row['failed']}/{row['total']}",
            f"{row['rate']:.1f}/s",
            row["last_beat"][11:],
            escape(row["error"] or ""),
        )
    return table


def _failures(failures: list[dict[str, Any]]) -> Table:
    table = _table("last failures", "perspective", "kind", "picture", "why")
    for row in failures:
        why = " ".join((row["message"] or "").split())
        table.add_row(row["at"], row["perspective"], row["kind"], escape(row["picture"] or ""), escape(why))
    return table


def _queue(queue: Mapping[str, Any]) -> list[str]:
    if not queue["queued_runs"]:
        return []
    waits = f"{queue['queued_runs']} queued runs, the oldest for {_duration(queue['oldest_seconds'])}"
    return [
        waits
        if queue["workers_alive"]
        else f"{waits}: no worker is alive; start the daemon (dagster dev, or a deployment's)"
    ]


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=title, caption_justify="left")
    for column in columns:  # where there is little room, numbers stay and words are wrapped
        words = column in _WORDS
        table.add_column(column, no_wrap=not words, overflow="fold" if words else "ellipsis")
    return table


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in STATES if states.get(state))


def _kinds(failed: int, kinds: Mapping[str, int]) -> str:
    told = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    return f"{failed}{f' ({told})' if told else ''}" if failed else ""


def _number(value: int) -> str:
    return str(value) if value else ""


def _duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
