"""Binds perspectives to engines: who answers each, and the fingerprint of what it will say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.engine.models import engine_identity, model_label, model_revision
from caption_assets.perspectives import (
    LibraryError,
    Perspective,
    SelectionError,
    fingerprint,
    fingerprint_parts,
    guided_schema,
    load_library,
    resolve,
)


@dataclass(frozen=True)
class BoundPerspective:
    """A perspective with all that decides its outputs."""

    perspective: Perspective
    output: Perspective
    """The perspective as its stored outputs look: another than `perspective` where that is on regions."""
    inputs: tuple[str, ...]
    engine: str
    model: str
    revision: str
    fingerprint: str
    parts: Mapping[str, str]
    """Digests of the fingerprint's parts, to say which one changed."""
    stage: int
    """Number of engine changes between this perspective and the pictures."""

    @property
    def name(self) -> str:
        """The perspective's name."""
        return self.perspective.name

    @cached_property
    def guided_schema(self) -> dict[str, Any]:
        """The JSON Schema that an engine is given: the same dict for every request, so that engines know it again."""
        return guided_schema(self.perspective)


def bind_perspectives(config: PipelineConfig) -> dict[str, BoundPerspective]:
    """The enabled perspectives by name, inputs before their readers.

    Raises:
        ConfigError: a library cannot be loaded, or the selection does not hold together.
    """
    section = config.perspectives
    try:
        library = load_library(section.library, config.base_dir)
        resolved = resolve(library, section.enabled, section.inputs)
    except LibraryError as error:  # it names the files
        raise ConfigError(str(error)) from None
    except SelectionError as error:
        raise ConfigError(f"{config.file}: perspectives: {error}") from None
    bound: dict[str, BoundPerspective] = {}
    for each in resolved:
        perspective = each.perspective
        engine_name = perspective.engine or "default"
        engine = config.engines.get(engine_name)
        if engine is None:
            raise ConfigError(
                f"{library.files[perspective.name]}: engine: {engine_name!r} is not among the engines of {config.file} "
                f"({', '.join(sorted(config.engines))}); add it there, or leave the field out"
            )
        identity: dict[str, Any] = engine_identity(config, engine)
        upstream = {name: bound[name].fingerprint for name in each.inputs}
        bound[perspective.name] = BoundPerspective(
            perspective=perspective,
            output=each.output,
            inputs=each.inputs,
            engine=engine_name,
            model=model_label(engine),
            revision=model_revision(config, engine),
            fingerprint=fingerprint(each, upstream, identity),
            parts=fingerprint_parts(each, upstream, identity),
            stage=max((bound[name].stage + (bound[name].engine != engine_name) for name in each.inputs), default=0),
        )
    return bound


def engine_groups(bound: Mapping[str, BoundPerspective]) -> list[list[BoundPerspective]]:
    """Perspectives that one load of one engine can answer, in the order in which the loads must happen."""
    groups: dict[tuple[int, str], list[BoundPerspective]] = {}
    for each in bound.values():
        groups.setdefault((each.stage, each.engine), []).append(each)
    return [groups[key] for key in sorted(groups)]
