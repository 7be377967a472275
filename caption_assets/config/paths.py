"""Paths as a pipeline file writes them."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: Path, base: Path) -> Path:
    path = _expanded(path)
    return Path(os.path.normpath(path if path.is_absolute() else base / path))


def _expanded(path: Path) -> Path:
    """The path with `~` replaced; as it is where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
