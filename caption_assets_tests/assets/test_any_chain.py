"""Perspectives that read each other in any way, over any engines: each is asked once, in parts or at once, and a
changed prompt makes stale what it has to, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from caption_assets.captioning.catalog import open_views
from caption_assets.config import PipelineConfig, load_config
from caption_assets.definitions import build_defs
from caption_assets.demo.scenes import write_scenes
from caption_assets_tests.assets.running import Pipeline, write_config
from caption_assets_tests.engine.stub_server import MODEL, StubServer

ENGINES = ("default", "second")
PICTURES = 6
SHARDS = ("demo-000000", "demo-000001", "demo-000002")
RANGES = ((SHARDS[0], SHARDS[2]), (SHARDS[1], SHARDS[2]), (SHARDS[0], None), (SHARDS[2], None))


class World:
    """Perspectives drawn at random in a folder, and a pipeline over a server for each engine."""

    def __init__(self, folder: Path, seed: int, servers: dict[str, StubServer]) -> None:
        self.chance, self.servers = random.Random(seed), servers
        self.library = folder / "perspectives"
        self.library.mkdir()
        self.inputs: dict[str, list[str]] = {}
        for number in range(self.chance.randint(5, 8)):
            self._draw(f"look_{self.chance.randint(10, 99)}_{number}")
        write_scenes(folder / "pictures", PICTURES, seed)
        self.config = write_config(
            folder,
            {"demo": {"path": "./pictures", "shard_size": PICTURES // len(SHARDS)}},
            perspectives={"library": ["./perspectives"], "enabled": self.some(len(self.inputs))},
            engines={name: {"kind": "openai", "model": MODEL, "servers": [each.url]} for name, each in servers.items()},
        )
        self.pipeline = Pipeline.of(self.config)

    def some(self, count: int) -> list[str]:
        """So many of the perspectives, in any order."""
        return self.chance.sample(list(self.inputs), count)

    @property
    def asked(self) -> int:
        """Requests so far."""
        return sum(len(server.calls) for server in self.servers.values())

    def readers(self, name: str) -> set[str]:
        """A perspective and all that read it, be it through others."""
        found = {name}
        for each, inputs in self.inputs.items():  # inputs come before their readers
            if found.intersection(inputs):
                found.add(each)
        return found

    def change(self, name: str) -> PipelineConfig:
        """Another prompt."""
        file = self.library / f"{name}.json"
        document = json.loads(file.read_text())
        file.write_text(json.dumps(document | {"prompt": f"Now: {document['prompt']}"}))
        self.config = load_config(self.config.file)
        self.pipeline = Pipeline(self.config, self.pipeline.instance, build_defs(self.config, {}))
        return self.config

    def _draw(self, name: str) -> None:
        inputs = self.some(self.chance.randint(0, min(3, len(self.inputs))))
        read = " ".join(f"{{{{ inputs.{each}.text }}}}" for each in inputs)
        document: dict[str, Any] = {
            "name": name,
            "prompt": f"{name}: {read if self.chance.random() < 0.7 else 'say more.'}",
            "inputs": inputs,
            "engine": self.chance.choice(ENGINES),
            "image": not inputs or self.chance.random() < 0.6,
            "priority": self.chance.randint(0, 200),
            "schema_fields": [{"name": "text", "max_length": 60}, {"name": "n", "type": "int", "maximum": 9}],
        }
        (self.library / f"{name}.json").write_text(json.dumps(document))
        self.inputs[name] = inputs


@pytest.fixture
def servers() -> Iterator[dict[str, StubServer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(StubServer()) for name in ENGINES}


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 30))])
def test_each_is_asked_once_and_again_when_it_must_be(
    tmp_path: Path, servers: dict[str, StubServer], seed: int
) -> None:
    world = World(tmp_path, seed, servers)
    assert world.pipeline.ingest().success
    for _ in range(2):
        part = [f"captions/{name}" for name in world.some(world.chance.randint(1, len(world.inputs)))]
        outcome = world.pipeline.caption(*world.chance.choice(RANGES), select=["media", *part])
        assert outcome.success, outcome.failures
    outcome = world.pipeline.caption(SHARDS[0], SHARDS[-1])
    assert outcome.success, outcome.failures
    assert world.asked == PICTURES * len(world.inputs)
    with open_views(world.config) as views:
        assert views.execute("SELECT count(*) FROM captions").fetchone() == (world.asked,)
        assert views.execute("SELECT count(*) FROM stale").fetchone() == (0,)

    changed, before = world.chance.choice(list(world.inputs)), world.asked
    with open_views(world.change(changed)) as views:
        stale = views.execute("SELECT perspective, count(*) FROM stale GROUP BY ALL").fetchall()
    assert dict(stale) == dict.fromkeys(world.readers(changed), PICTURES)
    outcome = world.pipeline.caption(SHARDS[0], SHARDS[-1])
    assert outcome.success, outcome.failures
    assert world.asked - before == PICTURES * len(stale)
