"""What is wrong with a pipeline file, in words: each line names the field, what was found there, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Kinds = Mapping[str, Mapping[str, type[BaseModel]]]
"""Section → kind → model, for the sections whose entries have a `kind`."""

_SHOWN = 60
_SECRETS = ("key", "token", "secret", "password")
_REMEDIES = {
    "missing": "is missing; add it",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty; give a value",
    "int_type": "must be a whole number; write digits only",
    "int_parsing": "must be a whole number; write digits only",
    "int_from_float": "must be a whole number; write digits only",
    "float_type": "must be a number; write digits, with a point where needed",
    "float_parsing": "must be a number; write digits, with a point where needed",
    "finite_number": "must be a finite number; write digits, with a point where needed",
    "bool_type": "must be true or false; write one of them",
    "bool_parsing": "must be true or false; write one of them",
    "list_type": "must be a list; write [a, b], or a line '- a' for each entry",
    "dict_type": "must be a mapping; write 'name: value' lines below it",
    "model_attributes_type": "must be a mapping; write 'name: value' lines below it",
    "model_type": "must be a mapping; write 'name: value' lines below it",
    "path_type": "must be a path; write it as text",
    "too_short": "must not be empty; add at least one entry",
}


class ConfigError(Exception):
    """The pipeline file cannot be used; the message names file, field and remedy."""


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that takes a key given twice for the mistake it is, instead of dropping one of the two."""

    # Dates are texts, as they are wherever another library has taken timestamps out of PyYAML's shared loader.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises yaml.YAMLError at the second key of a name."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice; remove or rename one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def explain(error: ValidationError, document: Mapping[str, Any], model: type[BaseModel], kinds: Kinds) -> list[str]:
    """One line for each thing that is wrong with a document."""
    unknown = _unknown_kinds(document, kinds)
    lines = list(unknown.values())
    for found in error.errors():
        detail = _without_kind(found, kinds)
        location = detail["loc"]
        if location[:2] not in unknown:  # of no known kind: any other complaint would be beside the point
            lines.append(f"{_field(location)}: {_complaint(detail, document, model, kinds)}")
    return list(dict.fromkeys(lines))


def _without_kind(detail: ErrorDetails, kinds: Kinds) -> ErrorDetails:
    """The detail without the step that pydantic adds where a section's kind decides its model."""
    section, *rest = detail["loc"] or ("",)
    models = kinds.get(str(section), {})
    if len(models) > 1 and len(rest) > 1 and rest[1] != "[key]":
        return {**detail, "loc": (section, rest[0], *rest[2:])}
    return detail


def _unknown_kinds(document: Mapping[str, Any], kinds: Kinds) -> dict[tuple[Any, ...], str]:
    """Section and name of the entries whose kind does not exist, with the line that says so."""
    lines: dict[tuple[Any, ...], str] = {}
    for section, models in kinds.items():
        entries = document.get(section)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if not isinstance(entry, dict):
                continue
            kind, there_are = entry.get("kind"), f"the kinds are {_list(models)}"
            if "kind" not in entry:
                lines[section, name] = f"{section}.{name}.kind: is missing; add it: {there_are}"
            elif not isinstance(kind, str) or kind not in models:
                lines[section, name] = f"{section}.{name}.kind: there is no kind {_shown(kind)}; {there_are}"
    return lines


def _complaint(detail: ErrorDetails, document: Mapping[str, Any], model: type[BaseModel], kinds: Kinds) -> str:
    location, kind = detail["loc"], detail["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], document, model, kinds)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return "unknown key; " + (f"did you mean {close[0]!r}?" if close else f"the keys here are {_list(known)}")
    if location and location[-1] == "[key]":
        return f"names must be text; put {_shown(detail['input'])} in quotes"
    if kind == "invalid_key":
        return "names must be text; put it in quotes"
    if kind in {"missing", "too_short", "string_too_short"} or _secret(location):
        return _message(detail)
    return worded(detail)


def worded(detail: ErrorDetails) -> str:
    """What pydantic complains of, in this module's words, with what was found."""
    if detail["type"] == "value_error":
        return _message(detail)
    what, separator, remedy = _message(detail).partition("; ")
    return f"{what}, not {_shown(detail['input'])}{separator}{remedy}"


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        message = f"must be one of {detail['ctx']['expected'].replace(' or ', ', ')}"
    return _REMEDIES.get(detail["type"], message.replace("Input should", "must"))


def _known_keys(
    location: Sequence[int | str], document: Mapping[str, Any], model: type[BaseModel], kinds: Kinds
) -> list[str]:
    """The keys that may stand at a place of the document."""
    if len(location) >= 2 and location[0] in kinds:
        section, name, *deeper = location
        model = kinds[str(section)][document[str(section)][name]["kind"]]
        location = deeper
    for step in location:
        field = model.model_fields.get(str(step))
        models = list(_models(field.annotation)) if field else []
        if models:
            model = models[0]
    return list(model.model_fields)


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    """The sections that a field's type mentions."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _field(location: Sequence[int | str]) -> str:
    steps = (str(step) for step in location if step != "[key]")
    return ".".join(step if step.isprintable() else repr(step) for step in steps) or "(top level)"


def _secret(location: Sequence[int | str]) -> bool:
    return any(word in str(step).lower() for step in location for word in _SECRETS)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
