"""What a process works with: the pipeline file and its perspectives, read once, and a digest that tells when the files
have changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.config import PipelineConfig, load_config
from caption_assets.perspectives import library_files

_TRIES = 5


@dataclass(frozen=True)
class Loaded:
    """One reading of the files, so that everything built of it agrees."""

    config: PipelineConfig
    bound: Mapping[str, BoundPerspective]
    """The enabled perspectives by name, inputs before their readers."""
    digest: str
    """Of the files as they were read."""


def load(config: PipelineConfig | None = None) -> Loaded:
    """Read the files, all in one state.

    Args:
        config: a pipeline file that was read already; default: what `load_config()` finds.

    Raises:
        ConfigError: the pipeline file, or a perspective it enables, cannot be used.
    """
    if config is not None:
        return Loaded(config, bind_perspectives(config), files_digest(config))
    before = files_digest(load_config())
    for _ in range(_TRIES):  # somebody may be saving them right now
        settings = load_config()
        bound, after = bind_perspectives(settings), files_digest(settings)
        if before == after:
            break
        before = after
    return Loaded(settings, bound, after)


def files_digest(config: PipelineConfig) -> str:
    """SHA-256 (hex) over names and contents of the pipeline file and of all files of its perspective libraries."""
    digest = hashlib.sha256()
    for file in source_files(config):
        try:
            contents = file.read_bytes()
        except OSError:  # what is gone or locked is another state, too; whoever loads it says what is wrong
            contents = b""
        digest.update(f"{file}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()


def source_files(config: PipelineConfig) -> list[Path]:
    """The pipeline file and the files of its perspective libraries."""
    return [config.file, *library_files(config.perspectives.library, config.base_dir)]
