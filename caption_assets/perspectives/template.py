"""The template language of prompts: Jinja2, sandboxed and strict, applied only where a prompt uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from caption_assets.perspectives.bounds import TEXT_METHODS, Bounded, bound_filters, bounded_sum, counting
from caption_assets.perspectives.schema import compact_json

_LOOKUP = (nodes.Getattr, nodes.Getitem)
NAMESPACES = ("inputs", "context", "source", "region")


class _Environment(ImmutableSandboxedEnvironment):
    """Perspective files may come from strangers: no internals of Python, no mutation, bounded time and memory."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = Bounded().visit(super()._parse(source, name, filename))
        return template

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A perspective or a field named `items` or `values` must win over the method of the dict that holds it.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "+":
            bounded_sum(left, right)
            return super().call_binop(context, operator, left, right)
        if operator == "**" or not numbers:
            raise SecurityError(f"the operator {operator} is not available here")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(called, "__wrapped__", called)  # what Jinja2 wraps itself, such as `format`
        if isinstance(getattr(method, "__self__", None), str) and method.__name__ not in TEXT_METHODS:
            raise SecurityError(f"the method {method.__name__} of texts is not available here")
        return super().call(context, called, *args, **kwargs)


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
    environment.filters = bound_filters(environment.filters)
    del environment.globals["lipsum"]
    return environment


_ENVIRONMENT = _environment()


@dataclass(frozen=True)
class TemplateNames:
    """What a prompt reads: names of inputs (`inputs.x`), of their contexts (`context.x`), of source columns, and of a
    region's fields (`region.x`).

    `reads_inputs` is true where `inputs` or `context` occurs at all, be it in a loop over them; `whole_source` where
    `source` occurs otherwise than in `source.x`, so that any column may count. `input_fields` are the pairs in
    `inputs.x.y`, `unknown` names that no prompt can read, `internals` attributes that are Python's own, such as
    `__class__`, which no prompt may read.
    """

    inputs: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    reads_inputs: bool = False
    reads_region: bool = False
    whole_source: bool = False
    input_fields: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    internals: tuple[str, ...] = ()


def is_template(prompt: str) -> bool:
    """Whether a prompt uses Jinja2; any other prompt is used verbatim, single braces included."""
    return "{{" in prompt or "{%" in prompt


def render(template: Template, values: Mapping[str, Any]) -> str:
    """Render a template within its bounds. Raises SecurityError beyond them, and whatever the template does."""
    return counting(lambda: template.render(values))


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
    roots = [node.name for node in tree.find_all(nodes.Name)]
    lookups = list(_lookups(tree))
    attributes = dict.fromkeys(node.attr for node in tree.find_all(nodes.Getattr))
    found = {
        namespace: tuple(dict.fromkeys(name for root, name, _ in lookups if root == namespace))
        for namespace in NAMESPACES
    }
    asked = meta.find_undeclared_variables(tree) - _ENVIRONMENT.globals.keys() - set(NAMESPACES)
    return TemplateNames(
        **found,
        reads_inputs="inputs" in roots or "context" in roots,
        reads_region="region" in roots,
        whole_source=roots.count("source") > sum(root == "source" for root, _, _ in lookups),
        input_fields=tuple(dict.fromkeys((name, deep) for root, name, deep in lookups if root == "inputs" and deep)),
        unknown=tuple(sorted(asked)),
        internals=tuple(name for name in attributes if name.startswith("__")),
    )


def _lookups(tree: nodes.Template) -> Iterator[tuple[str, str, str | None]]:
    """Each `root.name` (or `root["name"]`) over a namespace, with the field that is read from it, if there is one."""
    asked = [each for each in tree.find_all((nodes.Getattr, nodes.Getitem)) if isinstance(each, _LOOKUP)]
    deeper = {id(each.node): _key(each) for each in asked}
    for each in asked:
        if isinstance(each.node, nodes.Name) and each.node.name in NAMESPACES and (name := _key(each)):
            yield each.node.name, name, deeper.get(id(each))


def _key(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """What a lookup asks for, where the template says so; None for a dict's method and for what is computed."""
    if isinstance(node, nodes.Getattr):
        return None if node.attr in {"items", "keys", "values", "get"} else node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None
