"""A pipeline for the tests of regions: boxes on every picture, an animal in each, and a report of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caption_assets.captioning import rows
from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig
from caption_assets.demo import prompts
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import read_failures
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent, reply

MakeConfig = Callable[..., PipelineConfig]

SPECIES: dict[str, Any] = {
    "name": "species",
    "prompt": "Which animal is the {{ region.label }}?",
    "schema_fields": [{"name": "species"}, {"name": "sure", "type": "bool"}],
    "describe_schema": False,
    "scope": "region",
    "inputs": ["scene_objects"],
    "regions": {"input": "scene_objects", "field": "objects", "units": "percent", "min_pixels": 1},
}
REPORT: dict[str, Any] = {
    "name": "report",
    "prompt": "Sum up.",
    "schema_fields": [{"name": "caption"}],
    "context_template": "",
    "describe_schema": False,
    "image": False,
    "inputs": ["species"],
}
BOXES = [[10, 20, 30, 60], [50, 50, 90, 90], [0, 0, 100, 100]]
NAMES = ["scene_objects", "species", "report"]
asked = re.compile(r".*/(?P<name>\w+)(\[(?P<index>\d+)\])?#\d+").fullmatch
"""Whose request it is, by its id, and which region it is about."""


@dataclass
class Script:
    """Draws the same boxes on every picture, and names the animal in each; `fail` may answer instead."""

    boxes: list[list[int]] = field(default_factory=lambda: list(BOXES))
    fail: Callable[[EngineRequest, int], EngineReply | EngineFailure | None] = lambda request, index: None

    def __call__(self, request: EngineRequest) -> EngineReply | EngineFailure:
        """The answer to a request of any perspective."""
        match = asked(request.request_id)
        assert match
        if match["name"] == "scene_objects":
            objects = [{"label": f"animal {index}", "box": box} for index, box in enumerate(self.boxes)]
            return reply(json.dumps({"objects": objects}))
        if match["name"] == "report":
            return reply(json.dumps({"caption": "Animals."}))
        index = int(match["index"])
        return self.fail(request, index) or reply(json.dumps({"species": f"species {index}", "sure": True}))


def crops_of(engine: ScriptedEngine) -> list[EngineRequest]:
    """The requests about regions."""
    return [request for request in engine.requests if "[" in request.request_id]


@dataclass
class World:
    """A pipeline file with the perspectives above, and the media of one shard of eight pictures."""

    make: MakeConfig
    folder: Path
    pictures: Path
    config: PipelineConfig = field(init=False)
    lake: Lake = field(init=False)
    shard: Shard = field(init=False)

    def __post_init__(self) -> None:
        self.configure()
        self.lake = Lake(self.config.lake)
        self.shard = ingest(self.config, self.lake)[0]

    def configure(self, species: dict[str, Any] | None = None, **sections: Any) -> PipelineConfig:
        """Write the perspectives (with changes) and the pipeline file."""
        self.folder.mkdir(exist_ok=True)
        objects = json.loads((prompts.PERSPECTIVE_FOLDER / "scene_objects.json").read_text())
        objects["schema_fields"][0]["max_items"] = None
        for each in (objects, SPECIES | (species or {}), REPORT):
            (self.folder / f"{each['name']}.json").write_text(json.dumps(each))
        chosen = {"library": [str(self.folder)], "enabled": NAMES}
        eight = {"demo": {"kind": "folder", "path": str(self.pictures)}}
        self.config = self.make(**{"perspectives": chosen, "datasets": eight, **sections})
        return self.config

    def run(self, script: Script, run_id: str = "run", **options: Any) -> tuple[ScriptedEngine, Any]:
        """Caption the shard; the engine with its requests, and the reports by perspective."""
        engine = ScriptedEngine(script)
        (report,) = caption(self.config, self.lake, [self.shard], lent(engine), run_id=run_id, **options)
        return engine, report.looks

    def rows(self, name: str = "species") -> list[dict[str, Any]]:
        """The rows of a perspective."""
        return list(rows.read_rows(self.lake, bound_of(self.config)[name], self.shard).values())

    def failures(self, name: str = "species") -> list[dict[str, Any]]:
        """The failures of a perspective."""
        return read_failures(self.lake, name, self.shard)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the views."""
        with open_views(self.config) as views:
            return views.execute(sql).fetchall()
