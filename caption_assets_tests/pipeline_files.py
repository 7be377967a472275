"""Pipeline files for tests: a good one, changed at will, and what is said about a bad one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from caption_assets.config import ConfigError, load_config


def document(**changes: Any) -> dict[str, Any]:
    """A good pipeline file; keys like `datasets__d__path` replace what is deep in it, None removes it."""
    good: dict[str, Any] = {
        "lake": "lake",
        "datasets": {"d": {"kind": "folder", "path": "pictures"}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_caption"]},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
        "media": {"max_pixels": 2048},
        "captions": {"max_attempts": 2},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        section = good
        for step in path:
            section = section[step]
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    return good


def write(folder: Path, content: object) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    file = folder / "pipeline.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def complaints(folder: Path, content: object) -> list[str]:
    """What is said about a bad file, each line without the file's name that must begin it."""
    file = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]
