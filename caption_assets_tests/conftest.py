"""Shared fixtures: pictures, pipeline files, and one real vLLM engine for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml

from caption_assets.config import PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine.loading import open_engine
from caption_assets.engine.protocol import Engine
from caption_assets_tests.support import SharedEngine

PERSPECTIVES = ["scene_caption", "scene_objects", "scene_count", "synthesized_caption"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, and inherited by all that we start
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Device locks of the tests are their own, so that a run elsewhere cannot hold them up; so is what they cache."""
    os.environ["CAPTION_ASSETS_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
    os.environ["CAPTION_ASSETS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("DAGSTER_HOME", None)  # an instance that is not the test's own would be asked for its runs


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 drawn pictures and their truth; not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    write_scenes(folder, 24, 4711)
    return folder


@pytest.fixture
def make_config(tmp_path: Path, pictures: Path) -> Callable[..., PipelineConfig]:
    """Write a pipeline file in a folder of the test's own, and load it. Keywords replace sections."""

    def make(**sections: object) -> PipelineConfig:
        document = {
            "lake": "./lake",
            "datasets": {"demo": {"kind": "folder", "path": str(pictures), "shard_size": 8}},
            "perspectives": {"library": ["demo"], "enabled": PERSPECTIVES},
            "engines": {"default": {"kind": "vllm", "model": "tiny"}},
            **sections,
        }
        file = tmp_path / "pipeline.yaml"
        file.write_text(yaml.safe_dump(document))
        return load_config(file)

    return make


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngine]:
    """The bundled model on real vLLM, loaded once, when the first test asks for it."""
    folder = tmp_path_factory.mktemp("engine")
    file = folder / "pipeline.yaml"
    document = {
        "lake": "./lake",
        "datasets": {"none": {"kind": "folder", "path": "."}},
        "perspectives": {"library": ["demo"], "enabled": PERSPECTIVES},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
    }
    file.write_text(yaml.safe_dump(document))
    with open_engine(load_config(file), "default") as engine:
        yield SharedEngine(engine)


@pytest.fixture
def open_shared(
    shared_engine: SharedEngine,
) -> Callable[[PipelineConfig, str, Callable[[], None]], AbstractContextManager[Engine]]:
    """An opener that lends the session's engine and counts in `shared_engine.opened` how often it was asked for."""
    shared_engine.opened = 0
    shared_engine.requests = 0

    @contextmanager
    def lend(config: PipelineConfig, name: str, waiting: Callable[[], None]) -> Iterator[Engine]:
        del config, name, waiting
        shared_engine.opened += 1
        yield shared_engine

    return lend
