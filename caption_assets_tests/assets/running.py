"""Runs the real jobs in this process, and reads what Dagster then knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import PipelineConfig, load_config
from caption_assets.definitions import build_defs
from caption_assets.engine.lazy import OpenEngine
from caption_assets.engine.protocol import Engine, EngineReply, EngineRequest
from caption_assets.jobs import CAPTION_JOB, INGEST_JOB
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.partitions import SHARDS
from caption_assets.resources import VllmResource
from caption_assets_tests.support import SharedEngine, reply

PERSPECTIVES = ["scene_caption", "scene_objects", "scene_count", "synthesized_caption"]
ALL_ASSETS = ["media", *(f"captions/{name}" for name in PERSPECTIVES)]


ANSWERS = {
    "scene_caption": {"caption": "A large red circle.", "tags": ["red circle"]},
    "scene_objects": {"objects": [{"label": "red circle", "box": [1, 2, 30, 40]}]},
    "scene_count": {"count": 1, "background": "white"},
    "synthesized_caption": {"caption": "One object.", "tags": ["red circle"], "count": 1},
}


def answer(request: EngineRequest) -> EngineReply:
    """A valid answer, whatever the picture."""
    return reply(json.dumps(ANSWERS[request.request_id.split("/")[-1].split("#")[0]]))


def lending(engine: SharedEngine) -> OpenEngine:
    """An opener that lends an engine and counts in `engine.opened` how often it was asked for."""

    @contextmanager
    def lend_it(config: PipelineConfig, name: str, waiting: Callable[[], None]) -> Iterator[Engine]:
        del config, name, waiting
        engine.opened += 1
        yield engine

    return lend_it


def lend(open_: OpenEngine) -> VllmResource:
    """The resource, with an engine that is there already."""

    class Lent(VllmResource):
        def caption(
            self,
            config: PipelineConfig,
            lake: Lake,
            selected: Sequence[BoundPerspective],
            bound: Mapping[str, BoundPerspective],
            shards: Sequence[Shard],
            run_id: str,
            *,
            force: bool,
            tell: Callable[[str], None],
        ) -> CaptionRun:
            return CaptionRun(config, lake, selected, bound, shards, run_id, force=force, tell=tell, open_=open_)

    return Lent()


def write_config(
    folder: Path, datasets: Mapping[str, Mapping[str, Any]], *, check_paths: bool = True, **sections: object
) -> PipelineConfig:
    """Write a pipeline file over the demo's perspectives, and load it."""
    document = {
        "lake": "./lake",
        "datasets": {name: {"kind": "folder", **each} for name, each in datasets.items()},
        "perspectives": {"library": ["demo"], "enabled": PERSPECTIVES},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
        **sections,
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_config(file, check_paths=check_paths)


@dataclass
class Event:
    """One materialization or check evaluation of a shard."""

    asset: str
    partition: str | None
    metadata: dict[str, Any]
    tags: Mapping[str, str]
    passed: bool | None = None
    severity: str | None = None


class Outcome:
    """A run that has ended: its success, its events, and what it said."""

    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        self.success = result.success
        self.run_id = result.run_id
        self.steps = {event.step_key for event in result.all_events if event.is_step_success}
        self.failures = "\n".join(
            str(event.step_failure_data.user_failure_data.description)
            if event.step_failure_data.user_failure_data
            else str(event.step_failure_data.error)
            for event in result.all_events
            if event.is_step_failure
        )
        self.made = [
            Event(each.asset_key.to_user_string(), each.partition, _plain(each.metadata), each.tags or {})
            for event in result.all_events
            if event.is_step_materialization
            for each in [event.step_materialization_data.materialization]
        ]
        self.checks = [
            Event(
                each.asset_key.to_user_string(),
                each.partition,
                _plain(each.metadata),
                {},
                passed=each.passed,
                severity=each.severity.value,
            )
            for event in result.all_events
            if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
            for each in [event.asset_check_evaluation_data]
        ]

    def keys(self) -> Counter[tuple[str, str | None]]:
        """How often each asset's partition was materialized."""
        return Counter((event.asset, event.partition) for event in self.made)

    def of(self, asset: str, partition: str | None) -> Event:
        """The one materialization of a partition."""
        (found,) = [event for event in self.made if (event.asset, event.partition) == (asset, partition)]
        return found

    def check(self, asset: str, partition: str) -> Event:
        """The one check evaluation of a partition."""
        (found,) = [event for event in self.checks if (event.asset, event.partition) == (asset, partition)]
        return found


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "value", value) for name, value in metadata.items()}


@dataclass
class Pipeline:
    """A pipeline file, its definitions and an instance of its own."""

    config: PipelineConfig
    instance: dg.DagsterInstance
    defs: dg.Definitions

    @classmethod
    def of(cls, config: PipelineConfig, open_: OpenEngine | None = None, **resources: Any) -> Pipeline:
        """Definitions for a pipeline file, answered by a lent engine."""
        if open_ is not None:
            resources["vllm"] = lend(open_)
        return cls(config, dg.DagsterInstance.ephemeral(), build_defs(config, resources))

    @property
    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.config.lake)

    @property
    def shards(self) -> list[str]:
        """The registered shards, in Dagster's order."""
        return list(self.instance.get_dynamic_partitions(SHARDS))

    def ingest(self, dataset: str = "demo") -> Outcome:
        """Run `ingest_job`."""
        return self.run(INGEST_JOB, dataset)

    def caption(self, first: str, last: str | None = None, **options: Any) -> Outcome:
        """Run `caption_job` on one shard or a range."""
        return self.run(CAPTION_JOB, first, last, **options)

    def caption_new(self, planned: Pipeline, shard: str) -> Outcome:
        """Run `caption_job` on a shard that another pipeline over the same file planned."""
        self.instance.add_dynamic_partitions(SHARDS, planned.shards)
        return self.caption(shard)

    def run(
        self, job: str, first: str | None, last: str | None = None, select: Sequence[str] | None = None, **config: Any
    ) -> Outcome:
        """Run a job, or a selection of assets as the UI's Materialize does; `config`: run config of ops."""
        definition = self.defs.resolve_implicit_global_asset_job_def() if select else self.defs.resolve_job_def(job)
        ranged = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        result = definition.execute_in_process(
            instance=self.instance,
            partition_key=first if last is None else None,
            tags=None if last is None else ranged,
            asset_selection=[dg.AssetKey.from_user_string(key) for key in select] if select else None,
            run_config={"ops": {name: {"config": options} for name, options in config.items()}},
            raise_on_error=False,
        )
        return Outcome(result)
