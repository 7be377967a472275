"""Lakes on every kind of root that the tests can reach."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from caption_assets.lake.store import Lake
from caption_assets_tests.lake.hand import Hand


@pytest.fixture(params=["local", "file", "odd", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    roots = {
        "local": str(tmp_path / "lake"),
        "file": f"file://{tmp_path}/lake/",
        "odd": str(tmp_path / "a lake::of 100% “Größe”"),
        "memory": f"memory://{uuid.uuid4().hex}/lake",
    }
    lake = Lake(roots[request.param])
    yield lake
    lake.remove_folder("")


@pytest.fixture
def folder_lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def empty_memory() -> None:
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(Lake(str(tmp_path / "lake")))
