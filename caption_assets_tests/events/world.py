"""A lake in which things happen, a clock that a test moves, and rounds of telling."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver

from caption_assets.config import PipelineConfig, load_config
from caption_assets.events.event import EventType
from caption_assets.events.jobs import JobOutcome
from caption_assets.events.telling import Teller
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets_tests.assets.running import write_config

SECRET, TOKEN = "s3cret-never-shown", "t0ken-never-shown"
SIGNED = {"secret": {"env": "HOOK_SECRET"}, "token": {"env": "HOOK_TOKEN"}}
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class World:
    """A pipeline over the datasets `a` and `b`."""

    def __init__(self, folder: Path, callbacks: Sequence[dict[str, Any]], lake: str = "./lake") -> None:
        for name in ("a", "b"):
            (folder / name).mkdir(exist_ok=True)
        self.folder, self._root = folder, lake
        self.callbacks(callbacks)
        self.lake = Lake(self.config.lake)
        self.now = START
        self.jobs: list[JobOutcome] = []
        self.warnings: list[str] = []

    def callbacks(self, callbacks: Sequence[dict[str, Any]]) -> None:
        """Write the pipeline file anew."""
        datasets = {name: {"path": str(self.folder / name)} for name in ("a", "b")}
        self.config: PipelineConfig = write_config(self.folder, datasets, callbacks=list(callbacks), lake=self._root)

    def done(self, key: str, run_id: str = "run", *, step: str = "media", **columns: Any) -> None:
        """Let a run end a shard, a second after what happened before."""
        self.pass_(seconds=1)
        shard = Shard.parse(key)
        look = {"perspective": "scene_count", "fingerprint": "f" * 16, "model": "tiny", "reused": 0, "seconds": 2.0}
        row = {
            "run_id": run_id,
            "step": step,
            "dataset": shard.dataset,
            "shard": key,
            "done": 3,
            "failed": 0,
            "failure_kinds": "{}",
            "already_there": 0,
            "prompt_tokens": 10,
            "cached_tokens": 0,
            "completion_tokens": 5,
            "seconds": 1.5,
            "started_at": self.now,
            "ended_at": self.now,
            **(look if step == "captions" else {}),
            **columns,
        }
        path = layout.run_file(self.now.strftime("%Y-%m-%d"), run_id, f"{step}-{key}")
        self.lake.write(path, table_bytes(tables.table([row], tables.RUNS)))

    def ended(self, run_id: str, outcome: EventType, *partitions: str, error: str | None = None) -> None:
        """Let a job end."""
        self.pass_(seconds=1)
        self.jobs.append(JobOutcome(run_id, "caption_job", outcome, partitions, self.now, self.now, error))

    def pass_(self, **time: float) -> None:
        """Let time pass."""
        self.now += timedelta(**time)

    def tell(self, *, resolver: AbstractResolver | None = None, budget: float = 20.0) -> list[str]:
        """A round, as by a process that has just started: it reads the pipeline file, and knows only the lake."""
        return self._teller().call_back(budget_seconds=budget, resolver=resolver)

    def _teller(self) -> Teller:
        return Teller(
            load_config(self.config.file),
            Lake(self.config.lake),
            lambda looked: [each for each in self.jobs if each.ended_at >= looked.jobs_since],
            lambda: self.now,
            self.warnings.append,
        )

    def stored(self) -> str:
        """All that the lake holds of events."""
        files = sorted(Path(self.config.lake, "events").rglob("*.json"))
        return "\n".join(f"{file}\n{file.read_text()}" for file in files)
