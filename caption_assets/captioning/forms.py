"""What each form of a perspective was made of: digests of its fingerprint's parts, so that a change can be named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.perspectives import explain


def record_forms(lake: Lake, bound: Iterable[BoundPerspective]) -> None:
    """Write down the forms of perspectives that are about to caption; once is enough."""
    for each in bound:
        path = layout.form_file(each.name, each.fingerprint)
        if not lake.exists(path):
            lake.create(path, json.dumps({"model": each.model, "parts": dict(each.parts)}, indent=1).encode())


def changes_since(lake: Lake, bound: BoundPerspective) -> dict[str, list[str]]:
    """What is different now from each recorded earlier form, by its fingerprint, such as `prompt changed`."""
    changes: dict[str, list[str]] = {}
    for name in lake.list(layout.forms_folder(bound.name)):
        earlier = name.removesuffix(".json")
        if earlier != name and earlier != bound.fingerprint:
            changes[earlier] = explain(_parts(lake, bound.name, earlier), bound.parts)
    return changes


def _parts(lake: Lake, perspective: str, fingerprint: str) -> Mapping[str, str]:
    parts: dict[str, str] = json.loads(lake.read(layout.form_file(perspective, fingerprint)))["parts"]
    return parts
