"""The template language of prompts: Jinja2, sandboxed and strict, applied only where a prompt uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from caption_assets.perspectives.schema import compact_json

NAMESPACES = ("inputs", "context", "source")


class _Environment(ImmutableSandboxedEnvironment):
    """Perspective files may come from strangers: no internals of Python, no mutation, no texts multiplied."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A perspective or a field named `items` or `values` must win over the method of the dict that holds it.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not numbers:
            raise SecurityError(f"the operator {operator} is not available here")
        return super().call_binop(context, operator, left, right)


def format_value(value: Any) -> Any:
    """Write a value the way prompts show it.

    Texts and numbers stay as they are, booleans are `true` and `false`, None is empty, a list of such scalars is joined
    by commas, anything else is compact JSON.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            return compact_json(value)
        return ", ".join(str(format_value(item)) for item in value)
    if isinstance(value, Mapping):
        return compact_json(dict(value))
    return value


def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=format_value)
    environment.filters["tojson"] = compact_json  # the stock filter escapes for HTML
    return environment


_ENVIRONMENT = _environment()


@dataclass(frozen=True)
class TemplateNames:
    """What a prompt reads: names of inputs (`inputs.x`), of their contexts (`context.x`) and of source columns.

    `reads_inputs` is true where `inputs` or `context` occurs at all, be it in a loop over them.
    """

    inputs: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    reads_inputs: bool = False


def is_template(prompt: str) -> bool:
    """Whether a prompt uses Jinja2; any other prompt is used verbatim, single braces included."""
    return "{{" in prompt or "{%" in prompt


def compile_template(prompt: str) -> Template:
    """Compile a prompt.

    Raises:
        jinja2.TemplateSyntaxError: the prompt is no valid template.
    """
    return _compile(prompt)


@lru_cache(maxsize=1024)
def _compile(prompt: str) -> Template:
    return _ENVIRONMENT.from_string(prompt)


@lru_cache(maxsize=1024)
def template_names(prompt: str) -> TemplateNames:
    """Find what a prompt reads, by name.

    Raises:
        jinja2.TemplateSyntaxError: the prompt is no valid template.
    """
    if not is_template(prompt):
        return TemplateNames()
    tree = _ENVIRONMENT.parse(prompt)
    roots = {node.name for node in tree.find_all(nodes.Name)}
    found: dict[str, list[str]] = {namespace: [] for namespace in NAMESPACES}
    for namespace, name in _lookups(tree):
        if name not in found[namespace]:
            found[namespace].append(name)
    return TemplateNames(
        inputs=tuple(found["inputs"]),
        context=tuple(found["context"]),
        source=tuple(found["source"]),
        reads_inputs="inputs" in roots or "context" in roots,
    )


def _lookups(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    methods = {"items", "keys", "values", "get"}
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if not isinstance(node, nodes.Getattr | nodes.Getitem) or not isinstance(node.node, nodes.Name):
            continue
        if node.node.name not in NAMESPACES:
            continue
        if isinstance(node, nodes.Getattr):
            if node.attr not in methods:
                yield node.node.name, node.attr
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            yield node.node.name, node.arg.value
