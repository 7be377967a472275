"""`current.json`: which form of each perspective the views show first."""

from __future__ import annotations

import json
from collections.abc import Mapping

from caption_assets.lake import layout
from caption_assets.lake.store import Lake


def read_current(lake: Lake) -> dict[str, str]:
    """Perspective → fingerprint; empty before the first run."""
    try:
        return {str(name): str(value) for name, value in json.loads(lake.read(layout.CURRENT)).items()}
    except FileNotFoundError:
        return {}


def promote(lake: Lake, fingerprints: Mapping[str, str]) -> None:
    """Make these forms the current ones; the others stay as they are."""
    before = read_current(lake)
    after = before | dict(fingerprints)
    if after != before:
        lake.write(layout.CURRENT, json.dumps(after, indent=1, sort_keys=True).encode())
