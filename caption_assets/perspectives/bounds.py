"""Bounds on what a template may take: of time, steps of all its loops together; of memory, the length of each text.

Loops and what makes long texts out of short ones are rewritten, or wrapped, as the template is parsed. All else that a
template can do takes no more than a small multiple of what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

MAX_TEXT = 1_000_000
"""Characters of a text, or entries of a list, that a template makes."""
MAX_STEPS = 100_000
"""Steps of all loops of one rendering."""
MAX_NUMBER = 10_000
"""What a filter is given as a width or count."""

TEXT_METHODS = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "lower", "lstrip", "partition", "removeprefix"}
    | {"removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith"}
    | {"strip", "swapcase", "title", "upper"}
    | {"isalpha", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper"}
)
"""Methods of texts whose results are no longer than the texts."""
_SIZED_FILTERS = ("batch", "center", "filesizeformat", "indent", "slice", "tojson", "truncate", "wordwrap", "xmlattr")
_NO_FILTERS = ("format", "pprint", "random", "urlize")

_left: ContextVar[list[int]] = ContextVar("steps left")


def counting(render: Callable[[], str]) -> str:
    """Render, with all steps to go. Raises SecurityError when they are used up."""
    token = _left.set([MAX_STEPS])
    try:
        return render()
    finally:
        _left.reset(token)


class Bounded(NodeTransformer):
    """Has loops counted, and texts measured that `~` puts together."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A loop goes over counted steps."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_steps")  # type: ignore[arg-type]  # an expression, though declared a node
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        """`a ~ b` is a filter on a list."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_together")


def _filtered(node: nodes.Expr, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def measured(value: Any) -> Any:
    """The value. Raises SecurityError where it is too long."""
    if isinstance(value, Sized) and len(value) > MAX_TEXT:
        raise SecurityError(f"a text or list of more than {MAX_TEXT:,} characters or entries")
    return value


def bounded_sum(left: Any, right: Any) -> None:
    """Raise SecurityError where two texts or lists are too long together."""
    if isinstance(left, Sized) and isinstance(right, Sized) and len(left) + len(right) > MAX_TEXT:
        raise SecurityError(f"a text or list of more than {MAX_TEXT:,} characters or entries")


def bound_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Jinja2's filters without those that no prompt needs, and with bounds."""
    bound = {name: each for name, each in filters.items() if name not in _NO_FILTERS}
    bound |= {name: _small_numbers(bound[name]) for name in _SIZED_FILTERS}
    return bound | {"_steps": _steps, "_together": _together, "join": _join(bound["join"]), "replace": _replace}


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    left = _left.get()
    for value in values:
        left[0] -= 1
        if left[0] < 0:
            raise SecurityError(f"loops of more than {MAX_STEPS:,} steps")
        yield value


def _together(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    if sum(map(len, texts)) > MAX_TEXT:
        raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
    return "".join(texts)


def _small_numbers(filter_: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[1:], *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise SecurityError(f"a filter is given {value}, more than {MAX_NUMBER:,}")
        return measured(filter_(*args, **kwargs))

    for name in ("jinja_pass_arg",):  # how a filter says that it is given the environment
        if hasattr(filter_, name):
            setattr(wrapped, name, getattr(filter_, name))
    return wrapped


def _join(filter_: Callable[..., Any]) -> Callable[..., Any]:
    def join(eval_context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
        values = list(value)
        if len(values) * len(str(d)) + sum(len(str(each)) for each in values) > MAX_TEXT:
            raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
        return filter_(eval_context, values, d, attribute)

    join.jinja_pass_arg = filter_.jinja_pass_arg  # type: ignore[attr-defined]
    return join


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(value), str(old), str(new)
    if len(text) + (text.count(old) + 1) * len(new) > MAX_TEXT:
        raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
    return text.replace(old, new, -1 if count is None else count)
