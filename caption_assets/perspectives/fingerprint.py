"""Fingerprints: when does an output have to be made again?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from caption_assets.perspectives.prompt import appended_contexts, describe_schema, reads_contexts
from caption_assets.perspectives.resolve import ResolvedPerspective
from caption_assets.perspectives.schema import json_schema

FORMAT_VERSION = 1
"""Raised when the same perspective file comes to mean another prompt or another output."""

_DIGITS = 16


def fingerprint(
    resolved: ResolvedPerspective, input_fingerprints: Mapping[str, str], engine_identity: Mapping[str, Any]
) -> str:
    """Hash what decides a perspective's outputs, into 16 hexadecimal digits.

    See `fingerprint_parts` for what counts.
    """
    return combine_parts(fingerprint_parts(resolved, input_fingerprints, engine_identity))


def fingerprint_parts(
    resolved: ResolvedPerspective, input_fingerprints: Mapping[str, str], engine_identity: Mapping[str, Any]
) -> dict[str, str]:
    """Digest each part of what decides a perspective's outputs, by the part's name.

    What counts: the prompt, the JSON Schema (with the order of its properties, in which a model writes), the fields'
    descriptions where the prompt shows them, whether the picture is shown, the scope, the regions' options, sampling,
    the engine's identity, and of each input its fingerprint and the template through which it may be read. What does
    not: names, titles, the perspective's own description and context template, version, tags, module, priority, table
    columns and the engine's name. An input's title counts where it stands in the prompt, as the heading of an appended
    context. Values of source columns are no part of it: they differ by picture, and each row has a digest of its own.

    Args:
        resolved: the perspective and its inputs.
        input_fingerprints: the fingerprints of the inputs, by name; others are ignored.
        engine_identity: what tells one model from another (model, revision or digest, dtype, quantization, processor
            arguments, pixel budget); values that JSON can hold.

    Raises:
        KeyError: an input has no fingerprint.
        PromptError: the prompt is no valid template.
        TypeError: the engine's identity holds a value that JSON cannot.
    """
    perspective = resolved.perspective
    parts: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "prompt": perspective.prompt,
        # As text, for canonical JSON would hide the order of the properties.
        "schema": json.dumps(json_schema(perspective)),
        "described fields": describe_schema(perspective) if perspective.describe_schema else None,
        "image": perspective.image,
        "scope": perspective.scope,
    }
    for option, value in perspective.sampling.model_dump(exclude_none=True).items():
        parts[f"sampling.{option}"] = value
    for key, value in engine_identity.items():
        parts[f"engine.{key}"] = value
    if perspective.regions is not None:
        for option, value in perspective.regions.model_dump().items():
            parts[f"regions.{option}"] = value
    appended = appended_contexts(perspective, resolved.inputs)
    for name in resolved.inputs:
        read = resolved.input_perspectives[name]
        parts[f"input {name}"] = input_fingerprints[name]
        if name in appended or reads_contexts(perspective):
            parts[f"context template of {name}"] = read.context_template
        if name in appended:
            parts[f"title of {name}"] = read.display_name
    return {part: _digest(value) for part, value in parts.items()}


def combine_parts(parts: Mapping[str, str]) -> str:
    """Hash the digests of `fingerprint_parts` into the fingerprint."""
    return _digest(dict(parts))


def explain(old_parts: Mapping[str, str], new_parts: Mapping[str, str]) -> list[str]:
    """Say which parts differ between two results of `fingerprint_parts`, one line each, such as `prompt changed`."""
    lines = []
    for part in [*new_parts, *(part for part in old_parts if part not in new_parts)]:
        if part not in old_parts:
            lines.append(f"{part} added")
        elif part not in new_parts:
            lines.append(f"{part} removed")
        elif old_parts[part] != new_parts[part]:
            lines.append(f"{part} changed")
    return lines


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
