"""Forms of perspectives: what each was made of, so that a change can be named; and which ones a run works with.

A run may be several processes, each of which reads the files for itself. The first one writes down the run's forms, and
the others take those from the lake when the files have changed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.perspectives import Perspective, explain


class FormsChanged(Exception):
    """A run's forms cannot be had any more; the message says what changed."""


def record_forms(lake: Lake, bound: Iterable[BoundPerspective]) -> None:
    """Write down the forms of perspectives that are about to caption; once is enough."""
    for each in bound:
        path = layout.form_file(each.name, each.fingerprint)
        if not lake.exists(path):
            lake.create(path, json.dumps(_document(each), indent=1, ensure_ascii=False).encode())


def changes_since(lake: Lake, bound: BoundPerspective) -> dict[str, list[str]]:
    """What is different now from each recorded earlier form, by its fingerprint, such as `prompt changed`."""
    changes: dict[str, list[str]] = {}
    for name in lake.list(layout.forms_folder(bound.name)):
        earlier = name.removesuffix(".json")
        if earlier != name and earlier != bound.fingerprint:
            changes[earlier] = explain(_read(lake, bound.name, earlier)["parts"], bound.parts)
    return changes


def forms_of_run(lake: Lake, run_id: str, bound: Mapping[str, BoundPerspective]) -> dict[str, BoundPerspective]:
    """The perspectives as the run's first process found them; these, where this is the first.

    Raises:
        FormsChanged: the files have changed since in a way that this process cannot undo: another selection of
            perspectives, another engine or model.
    """
    path = layout.run_forms_file(run_id)
    record_forms(lake, bound.values())
    lake.create(path, json.dumps({name: each.fingerprint for name, each in bound.items()}, indent=1).encode())
    began_with: dict[str, str] = json.loads(lake.read(path))
    if began_with.keys() != bound.keys():
        names = ", ".join(sorted(began_with.keys() ^ bound.keys()))
        raise FormsChanged(f"the run began with another selection of perspectives ({names})")
    return {
        name: each if each.fingerprint == began_with[name] else _restored(lake, each, began_with[name])
        for name, each in bound.items()
    }


def _restored(lake: Lake, now: BoundPerspective, fingerprint: str) -> BoundPerspective:
    document = _read(lake, now.name, fingerprint)
    changes = explain(document["parts"], now.parts)
    engines = [change for change in changes if change.startswith("engine.")]
    if engines or "perspective" not in document or document["engine"] != now.engine:
        raise FormsChanged(f"{now.name} has changed since the run began ({', '.join(engines or changes)})")
    return replace(
        now,
        perspective=Perspective.model_validate(document["perspective"]),
        output=Perspective.model_validate(document["output"]),
        inputs=tuple(document["inputs"]),
        fingerprint=fingerprint,
        parts=document["parts"],
    )


def _document(bound: BoundPerspective) -> dict[str, Any]:
    return {
        "model": bound.model,
        "engine": bound.engine,
        "inputs": list(bound.inputs),
        "parts": dict(bound.parts),
        "perspective": bound.perspective.model_dump(mode="json", exclude_unset=True),
        "output": bound.output.model_dump(mode="json", exclude_unset=True),
    }


def _read(lake: Lake, perspective: str, fingerprint: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(lake.read(layout.form_file(perspective, fingerprint)))
    return document
