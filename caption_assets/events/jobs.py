"""Events of jobs: that a run of Dagster's was created, has started, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from caption_assets.config.callbacks import EventType
from caption_assets.events.event import Event, timestamp
from caption_assets.lake.layout import Shard

BEGINNINGS: frozenset[EventType] = frozenset({"job.created", "job.started"})
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class JobOutcome:
    """A run that has ended, or that was created or has started."""

    run_id: str
    job: str
    outcome: EventType
    partitions: Sequence[str]
    """Shards or datasets, in Dagster's order."""
    started_at: datetime | None
    ended_at: datetime
    """When it happened."""
    error: str | None

    @property
    def is_end(self) -> bool:
        """Whether the run is over."""
        return self.outcome not in BEGINNINGS

    @property
    def key(self) -> str:
        """What tells this outcome from all others."""
        return outcome_key(self.run_id, self.outcome)

    @property
    def datasets(self) -> list[str]:
        """The datasets whose partitions the run was for."""
        return sorted({_dataset(partition) for partition in self.partitions})

    def event(self, ended_at: datetime) -> Event:
        """The event; `ended_at`: the run's end, or that of the last shard it finished, should that clock be ahead."""
        first_line = next(iter((self.error or "").strip().splitlines()), None)
        return Event.of(
            self.outcome,
            [self.run_id],
            ended_at,
            self.datasets,
            {
                "run_id": self.run_id,
                "job": self.job,
                "partitions": {
                    "count": len(self.partitions),
                    "first": self.partitions[0] if self.partitions else None,
                    "last": self.partitions[-1] if self.partitions else None,
                },
                "started_at": timestamp(self.started_at) if self.started_at else None,
                "ended_at": timestamp(self.ended_at) if self.is_end else None,
                "error": first_line[:_LONGEST_ERROR] if first_line else None,
            },
        )


def outcome_key(run_id: str, outcome: EventType) -> str:
    """What tells the outcome of a run from all others."""
    return f"{run_id}:{outcome}"


def _dataset(partition: str) -> str:
    """The dataset of a partition, which is a shard or a dataset itself."""
    try:
        return Shard.parse(partition).dataset
    except ValueError:
        return partition
