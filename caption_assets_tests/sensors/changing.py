"""A pipeline whose perspective files change, its definitions loaded anew each time, over one instance and one lake."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from caption_assets.captioning.catalog import open_views
from caption_assets.config import load_config
from caption_assets.definitions import build_defs
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.perspectives.library import BUNDLED
from caption_assets.resources import PipelineResource
from caption_assets_tests.assets.running import Outcome, Pipeline, answer, lend, write_config
from caption_assets_tests.support import ScriptedEngine, lent

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def perspectives(enabled: Sequence[str]) -> dict[str, Any]:
    """The section of the pipeline file."""
    inputs = {"synthesized_caption": ["scene_caption", "scene_count"]}
    return {"library": ["./perspectives"], "enabled": list(enabled), "inputs": inputs}


class Changing:
    """Six pictures in three shards of two, answered by a script."""

    def __init__(self, home: Path, pictures: Path, **sections: Any) -> None:
        self.home = home
        shutil.copytree(BUNDLED["demo"], home / "perspectives")
        self.save("synthesized_caption", prompt="Join {{ inputs.scene_caption }} and {{ inputs.scene_count }}.")
        (home / "street").mkdir()
        self.source = sorted(pictures.glob("scene*"))
        for file in self.source[:6]:
            shutil.copy(file, home / "street")
        enabled = ["scene_caption", "scene_count", "synthesized_caption"]
        self.sections: dict[str, Any] = {"perspectives": perspectives(enabled), **sections}
        self.fail: dict[str, EngineFailure] = {}
        self.engine = ScriptedEngine(self._answer)
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.load()

    def _answer(self, request: EngineRequest) -> EngineReply | EngineFailure:
        name = request.request_id.split("/")[-1].split("#")[0]
        return self.fail.get(name) or answer(request)

    def load(self, **sections: Any) -> None:
        """Write the pipeline file, and load code from it."""
        self.sections |= sections
        street = {"street": {"path": str(self.home / "street"), "shard_size": 2, "watch": True}}
        config = write_config(self.home, street, **self.sections)
        self.pipeline = Pipeline(config, self.instance, build_defs(config, {"vllm": lend(lent(self.engine))}))

    def save(self, perspective: str, **keys: Any) -> None:
        """Change keys of a perspective file."""
        (file,) = (self.home / "perspectives").rglob(f"{perspective}.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))

    def save_pipeline(self, **sections: Any) -> None:
        """Change sections of the pipeline file; the code that is loaded does not know."""
        file = self.pipeline.config.file
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | sections))

    def change(self, perspective: str = "scene_caption", text: str = " Be brief.") -> None:
        """Change a prompt, and load it."""
        self.save(perspective, prompt=self.prompt(perspective) + text)
        self.load()

    def prompt(self, perspective: str) -> str:
        """What a perspective asks, by its file."""
        (file,) = (self.home / "perspectives").rglob(f"{perspective}.json")
        return str(json.loads(file.read_text())["prompt"])

    def caption_all(self) -> None:
        """Plan and caption what is there."""
        assert self.pipeline.ingest("street").success
        assert self.pipeline.caption(self.pipeline.shards[0], self.pipeline.shards[-1]).success

    def tick(self, sensor: str = "recaptioning") -> dg.SensorResult:
        """Evaluate a sensor as the daemon does."""
        definition = self.pipeline.defs.resolve_sensor_def(sensor)
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.pipeline.defs,
            resources={"pipeline": PipelineResource(config_file=str(self.pipeline.config.file))},
        )
        result: Any = definition(context)
        if isinstance(result, dg.SkipReason):
            return dg.SensorResult(skip_reason=result, cursor=self.cursor)
        self.cursor = result.cursor
        return result  # type: ignore[no-any-return]

    def run(self, request: dg.RunRequest) -> Outcome:
        """Do what a sensor asks for."""
        job = self.pipeline.defs.resolve_job_def("caption_job")
        return Outcome(
            job.execute_in_process(
                instance=self.instance,
                partition_key=request.partition_key,
                tags=dict(request.tags),
                asset_selection=list(request.asset_selection) if request.asset_selection else None,
                raise_on_error=False,
            )
        )

    def stale(self) -> Counter[tuple[str, str]]:
        """Rows of the view `stale` by perspective and reason."""
        with open_views(load_config(self.pipeline.config.file)) as views:
            return Counter(views.execute("SELECT perspective, reason FROM stale").fetchall())

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query over the views."""
        with open_views(self.pipeline.config) as views:
            return views.execute(sql).fetchall()


def why_not(result: dg.SensorResult) -> str:
    """Why a tick launched nothing."""
    assert not result.run_requests
    assert result.skip_reason
    return str(result.skip_reason.skip_message)


def what(request: dg.RunRequest) -> tuple[str, str, set[str]]:
    """First and last shard of a request, and its assets."""
    first, last = (request.partition_key or request.tags[tag] for tag in RANGE)
    return first, last, {key.path[-1] for key in request.asset_selection or ()}
