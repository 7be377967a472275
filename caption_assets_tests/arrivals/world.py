"""A watched dataset whose ticks a test makes, at the times it likes, and what the lake then holds."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from caption_assets.arrivals.cursor import Cursor
from caption_assets.arrivals.tick import Outcome, tick
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.departures import departed
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards, read_plan

INTERVAL = timedelta(seconds=30)


def config_of(home: Path, dataset: dict[str, Any]) -> PipelineConfig:
    """A pipeline file with one watched dataset, `d`."""
    at_once = {"max_wait_seconds": 0} if dataset["kind"] in ("folder", "bucket") else {}
    document = {
        "lake": "./lake",
        "datasets": {"d": {"watch": True, "shard_size": 10, **at_once, **dataset}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
    }
    file = home / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_config(file)


class Watch:
    """Ticks of a dataset, half a minute apart; the cursor is what it would be after it was stored."""

    def __init__(self, home: Path, **dataset: Any) -> None:
        self.config = config_of(home, dataset)
        self.lake = Lake(self.config.lake)
        self.cursor: str | None = None
        self.now = datetime.now(UTC)

    def tick(self, *, keep: bool = True, **later: float) -> Outcome:
        """One tick, half a minute (or so much) after the last; without `keep` its cursor is lost."""
        outcome = tick(self.config, self.lake, "d", Cursor.parse(self.cursor), self.now)
        self.now += timedelta(**later) if later else INTERVAL
        if keep:
            self.cursor = outcome.cursor.dump()
        return outcome

    def rest(self, seconds: float = 1e6) -> None:
        """Let the scan rest from now on for so long."""
        cursor = Cursor.parse(self.cursor)
        assert cursor.round is None
        cursor.rest_until = self.now.timestamp() + seconds
        self.cursor = cursor.dump()

    def until_quiet(self, most: int = 50) -> list[Outcome]:
        """Ticks until a round ended that found nothing new."""
        outcomes: list[Outcome] = []
        while len(outcomes) < most:
            outcomes.append(self.tick())
            if outcomes[-1].cursor.round is None and not outcomes[-1].new_items:
                return outcomes
        raise AssertionError("it does not become quiet")

    @property
    def planned(self) -> Counter[str]:
        """How often each URI is planned."""
        items = (item for shard in planned_shards(self.lake, "d") for item in read_plan(self.lake, shard))
        return Counter(item.uri for item in items)

    @property
    def sizes(self) -> list[int]:
        """The items of each shard."""
        return [len(read_plan(self.lake, shard)) for shard in planned_shards(self.lake, "d")]

    @property
    def gone(self) -> set[str]:
        """The URIs that are marked as gone."""
        return {uri for uri, _ in departed(self.lake, "d")}
