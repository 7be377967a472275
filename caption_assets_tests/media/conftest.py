"""A shard's surroundings: a lake, a folder of pictures, the settings."""

from pathlib import Path

import pytest

from caption_assets.config import Media
from caption_assets.lake.store import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


@pytest.fixture
def media() -> Media:
    return Media(max_pixels=4096)
