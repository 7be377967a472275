"""From a perspective to the text a model is asked, and from an output to the text another perspective reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, UndefinedError

from caption_assets.perspectives.model import Perspective, SchemaField
from caption_assets.perspectives.schema import compact_json
from caption_assets.perspectives.template import (
    TemplateNames,
    compile_template,
    format_value,
    is_template,
    render,
    template_names,
)

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\}")
_MISSING = object()


class PromptError(Exception):
    """A prompt that cannot be rendered: an input or a source column is missing, or the template is at fault."""


def render_prompt(
    perspective: Perspective,
    inputs: Mapping[str, Mapping[str, Any]],
    source: Mapping[str, Any],
    perspectives: Mapping[str, Perspective],
    region: Mapping[str, Any] | None = None,
) -> str:
    """Render the text that asks for one output.

    A prompt with `{{` or `{%` is a Jinja2 template over `inputs.<name>` (an input's output), `context.<name>` (that
    output through its perspective's context template) and `source.<column>` (a column of the picture's source); any
    other prompt is used verbatim. Inputs that a prompt does not read itself are appended, each under its display name;
    the one that a perspective on regions has its boxes from is not: of that, a prompt reads `region.<field>`.
    With `describe_schema` the expected JSON is described at the end. Inputs are taken in the order of their names, so
    that a prompt does not depend on which of them was ready first.

    Args:
        perspective: whose prompt.
        inputs: the outputs it reads, by the name of their perspective.
        source: the source columns of the picture.
        perspectives: at least the perspectives of the inputs, by name, in their output form.
        region: of a perspective on regions, the fields of the region that is asked about.

    Raises:
        PromptError: the template fails, or names something that is not there.
    """
    contexts: dict[str, str] = {}
    for name in sorted(inputs):
        if name not in perspectives:
            raise PromptError(f"{perspective.name}: the input {name} is no known perspective")
        contexts[name] = render_context(perspectives[name], inputs[name])
    values: dict[str, Mapping[str, Any]] = {
        "inputs": {name: inputs[name] for name in contexts},
        "context": contexts,
        "source": source,
        **({} if region is None else {"region": region}),
    }
    parts = [_render_template(perspective, values)]
    appended = appended_contexts(perspective, contexts)
    parts += [f"## {perspectives[name].display_name}\n{contexts[name]}" for name in appended]
    if perspective.describe_schema:
        parts.append(describe_schema(perspective))
    return parts[0] if len(parts) == 1 else "\n\n".join(part.rstrip("\n") for part in parts)


def appended_contexts(perspective: Perspective, inputs: Iterable[str]) -> list[str]:
    """Name the inputs whose contexts are appended, because the prompt reads neither `inputs` nor `context`.

    Raises:
        PromptError: the prompt is no valid template.
    """
    if _template_names(perspective).reads_inputs:
        return []
    return [name for name in inputs if perspective.regions is None or name != perspective.regions.input]


def reads_contexts(perspective: Perspective) -> bool:
    """Whether the prompt reads `inputs` or `context` itself.

    Raises:
        PromptError: the prompt is no valid template.
    """
    return _template_names(perspective).reads_inputs


def source_columns(perspective: Perspective) -> tuple[str, ...]:
    """Name the source columns that a prompt reads (`source.<column>`), in the order of their first use.

    Raises:
        PromptError: the prompt is no valid template.
    """
    return _template_names(perspective).source


def source_values(perspective: Perspective, source: Mapping[str, Any]) -> dict[str, Any]:
    """The source columns of a picture on which its prompt depends: those it names, or all where it does not name them.

    Raises:
        PromptError: the prompt is no valid template.
    """
    names = _template_names(perspective)
    return {name: value for name, value in source.items() if names.whole_source or name in names.source}


def _template_names(perspective: Perspective) -> TemplateNames:
    try:
        return template_names(perspective.prompt)
    except TemplateError as error:
        raise PromptError(f"{perspective.name}: the prompt is no valid template: {error}") from error


def _render_template(perspective: Perspective, values: Mapping[str, Mapping[str, Any]]) -> str:
    if not is_template(perspective.prompt):
        return perspective.prompt
    try:
        return render(compile_template(perspective.prompt), values)
    except UndefinedError as error:
        raise PromptError(
            f"{perspective.name}: {error.message}. The prompt may read these inputs: {_names(values['inputs'])}; "
            f"and these source columns: {_names(values['source'])}"
            + (f"; and of a region: {_names(values['region'])}" if "region" in values else "")
        ) from error
    except TemplateError as error:  # syntax and security errors
        raise PromptError(f"{perspective.name}: the prompt is no valid template: {error}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise PromptError(f"{perspective.name}: the prompt fails: {type(error).__name__}: {error}") from error


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(mapping) or "none"


# --- Contexts -----------------------------------------------------------------------------------------------------


def render_context(perspective: Perspective, output: Mapping[str, Any]) -> str:
    """Render an output as the text other perspectives read.

    The placeholders of the context template, `{field}` and `{field.nested}`, are replaced by values: scalars as they
    are, lists of scalars joined by commas, anything else as compact JSON. A placeholder that names nothing is left out.
    Without a context template every field stands in a line of its own.
    """
    if not perspective.context_template:
        values = ((field.name, output.get(field.name)) for field in perspective.schema_fields)
        return "\n".join(f"{name}: {format_value(value)}" for name, value in values if value is not None)

    # Not str.format: its placeholders reach into attributes of Python objects.
    def replace(match: re.Match[str]) -> str:
        value = _resolve(output, match.group(1).split("."))
        return "" if value is _MISSING else str(format_value(value))

    return _PLACEHOLDER.sub(replace, perspective.context_template)


def placeholders(template: str) -> list[str]:
    """List the placeholders of a context template, without braces, in order."""
    return _PLACEHOLDER.findall(template)


def _resolve(value: Any, path: Sequence[str]) -> Any:
    for index, name in enumerate(path):
        if isinstance(value, list):
            found = [_resolve(item, path[index:]) for item in value]
            return [item for item in found if item is not _MISSING]
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


# --- The description of the expected JSON ---------------------------------------------------------------------------

_NOUNS = {
    "str": ("text", "texts"),
    "int": ("whole number", "whole numbers"),
    "float": ("number", "numbers"),
    "bool": ("true or false", "true or false values"),
    "dict": ("JSON object", "JSON objects"),
}


def describe_schema(perspective: Perspective) -> str:
    """Describe the expected JSON in a few lines: each field's name, type, bounds and description, indented."""
    lines = ["Answer with one JSON object and nothing else. Its fields, in this order:"]
    for field in perspective.schema_fields:
        _describe(field, 0, lines.append)
    return "\n".join(lines)


def _describe(field: SchemaField, depth: int, write: Callable[[str], None]) -> None:
    bounds = _describe_bounds(field)
    details = [_describe_type(field), *([f"each {bounds}"] if bounds and field.is_list else [bounds] if bounds else [])]
    if field.optional:
        details.append("may be left out")
    colon = f": {' '.join(field.description.split())}" if field.description.strip() else ""
    write(f"{'  ' * depth}- {field.name} ({', '.join(details)}){colon}")
    for nested in field.fields or ():
        _describe(nested, depth + 1, write)


def _describe_type(field: SchemaField) -> str:
    one, many = ("object with these fields", "objects with these fields") if field.is_object else _NOUNS[field.type]
    if not field.is_list:
        return one
    if field.min_items and field.max_items is not None:
        if field.min_items == field.max_items:
            return f"list of exactly {field.min_items} {many}"
        return f"list of {field.min_items} to {field.max_items} {many}"
    if field.max_items is not None:
        return f"list of up to {field.max_items} {many}"
    if field.min_items:
        return f"list of {field.min_items} or more {many}"
    return f"list of {many}"


def _describe_bounds(field: SchemaField) -> str:
    if field.is_object or field.type in ("bool", "dict"):
        return ""
    if field.enum is not None:
        return "one of " + ", ".join(compact_json(value) for value in field.enum)
    if field.type == "str":
        if field.min_length == 1 and field.max_length is None:
            return "not empty"
        return _range(field.min_length, field.max_length, " characters")
    return _range(field.minimum, field.maximum, "")


def _range(low: float | None, high: float | None, unit: str) -> str:
    if low is not None and low == high:
        return f"exactly {low}{unit}"
    if low is not None and high is not None:
        return f"{low} to {high}{unit}"
    if high is not None:
        return f"at most {high}{unit}"
    return f"at least {low}{unit}" if low is not None else ""
