"""The pipeline file's vLLM arguments, checked by vLLM's own declarations before a model loads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from caption_assets.config import ConfigError, PipelineConfig, VllmEngine
from caption_assets.config.errors import worded
from caption_assets.engine.vllm_args import CHAT_ARGS, prepare_environment

_OWN_ARGS = frozenset({"model", "revision"})
_OTHER_NAMES = {"kv_cache_dtype": "cache_dtype", "limit_mm_per_prompt": "limit_per_prompt"}
"""Arguments that vLLM's configuration, which knows their bounds, calls otherwise."""


def check_args(config: PipelineConfig, name: str, engine: VllmEngine) -> None:
    """Raise ConfigError for an argument that vLLM does not have, or a value that it cannot have. Imports vLLM.

    What only shows together with the model, such as a context longer than the model's, vLLM tells when it is loaded.
    """
    prepare_environment()
    from vllm import EngineArgs

    fields = EngineArgs.__dataclass_fields__
    known = set(fields) | CHAT_ARGS
    for argument, value in engine.args.items():
        field = f"{config.file}: engines.{name}.args.{argument}"
        if argument in _OWN_ARGS:
            raise ConfigError(f"{field}: set it beside args, as engines.{name}.{argument}")
        if argument not in known:
            close = difflib.get_close_matches(argument, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; see the fields of vLLM's EngineArgs"
            raise ConfigError(f"{field}: vLLM has no such engine argument{hint}")
        if argument in CHAT_ARGS or (value is None and fields[argument].default is None):
            continue
        if problem := _problem(argument, fields[argument].type, value):
            raise ConfigError(f"{field}: {problem}")


def _problem(argument: str, type_: Any, value: Any) -> str | None:
    """What is wrong with a value, and the remedy."""
    strict = not isinstance(value, list | dict)  # texts are no numbers, but a list may become a set
    try:
        _adapter(type_).validate_python(value, strict=strict)
    except ValidationError as error:
        return _told(error, type_, value)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError):
        return None  # a type that only vLLM itself can check
    if isinstance(value, int | float) and not isinstance(value, bool):
        for bounds in _bounds(argument):
            try:
                TypeAdapter(Annotated[float, *bounds]).validate_python(value)
            except ValidationError as error:
                return _told(error, type_, value)
    return None


def _adapter(type_: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(type_, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a section of vLLM's configuration, which has options of its own
        return TypeAdapter(type_)


def _bounds(argument: str) -> Iterator[list[Any]]:
    """The constraints that vLLM's configuration has on an argument."""
    from vllm import config

    name = _OTHER_NAMES.get(argument, argument)
    sections: tuple[Any, ...] = (
        config.ModelConfig,
        config.CacheConfig,
        config.ParallelConfig,
        config.SchedulerConfig,
        config.MultiModalConfig,
        config.LoadConfig,
        config.LoRAConfig,
    )
    for section in sections:
        if (field := section.__pydantic_fields__.get(name)) and field.metadata:
            yield [each for each in field.metadata if type(each).__module__ == "annotated_types"]


def _told(error: ValidationError, type_: Any, value: Any) -> str:
    """The complaint that says most: about a choice where there is one, with what may have been meant."""
    details = sorted(error.errors(), key=lambda each: (each["type"] != "literal_error", len(each["loc"])))
    place = [str(step) for step in details[0]["loc"][-1:] if isinstance(value, dict) and step in value]
    problem = ": ".join([*place, worded(details[0])])
    choices = [str(choice) for choice in _choices(type_)]
    if isinstance(value, str) and (close := difflib.get_close_matches(value, choices, n=1)):
        problem += f"; did you mean {close[0]!r}?"
    return problem


def _choices(type_: Any) -> Iterator[Any]:
    """All values that a type names one by one."""
    if get_origin(type_) is Literal:
        yield from get_args(type_)
        return
    for part in get_args(type_):
        yield from _choices(part)
