"""The lint: every defect of a perspective library that shows without a model and without a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import TemplateSyntaxError
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from caption_assets.perspectives.cycle import find_cycle
from caption_assets.perspectives.findings import Finding, Level, quote, suggestion
from caption_assets.perspectives.library import Library
from caption_assets.perspectives.model import Perspective, SchemaField
from caption_assets.perspectives.prompt import placeholders
from caption_assets.perspectives.regions import lint_boxes, lint_scope, output_form
from caption_assets.perspectives.schema import item_schema
from caption_assets.perspectives.template import NAMESPACES, compile_template, is_template, template_names

_SINGLE_BRACES = re.compile(r"(?<!\{)\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\})")
_BOUNDS = (("min_length", "max_length"), ("minimum", "maximum"), ("min_items", "max_items"))


def lint(library: Library) -> list[Finding]:
    """Report every defect of a library: what loading found, what is wrong within each file, and between the files."""
    findings = list(library.findings)
    for name in sorted(library.perspectives):
        perspective, file = library.perspectives[name], library.files.get(name)
        findings += lint_perspective(perspective, file)
        findings += _lint_references(perspective, file, library)
        findings += [replace(finding, file=file) for finding in _lint_region(perspective, library)]
    findings += _lint_cycles(library)
    return findings


def lint_perspective(perspective: Perspective, file: Path | None = None) -> list[Finding]:
    """Report the defects of one perspective that show without any other."""
    return [
        replace(finding, file=file)
        for check in (_lint_prompt, _lint_schema, _lint_context_template, _lint_table, lint_scope, _lint_rest)
        for finding in check(perspective)
    ]


def _finding(level: Level, field: str, message: str, remedy: str) -> Finding:
    return Finding(level, None, field, message, remedy)


# --- Within a file --------------------------------------------------------------------------------------------------


def _lint_prompt(perspective: Perspective) -> Iterator[Finding]:
    prompt = perspective.prompt
    if not prompt.strip():
        yield _finding("error", "prompt", "the prompt is empty", "Write what the model shall do.")
    if not is_template(prompt):
        for name in dict.fromkeys(_SINGLE_BRACES.findall(prompt)):
            message = f"{{{name}}} reaches the model as it stands, for single braces are plain text"
            yield _finding("note", "prompt", message, f"Write {{{{ source.{name} }}}} to insert a source column.")
        return
    try:
        compile_template(prompt)
    except TemplateSyntaxError as error:
        message = f"line {error.lineno} is no valid Jinja2: {error.message}"
        yield _finding("error", "prompt", message, "Correct it, or put literal braces into {% raw %} … {% endraw %}.")
        return
    names = template_names(prompt)
    for name in names.unknown:
        remedy = f"Write source.{name} for a source column, or read one of {', '.join(NAMESPACES)}."
        yield _finding("error", "prompt", f"the prompt reads {quote(name)}, which is never there", remedy)
    for name in names.internals:
        remedy = f"Read a field or a column of that name as [{quote(name)}], or remove it."
        yield _finding("error", "prompt", f"the prompt reads {name}, which is Python's own", remedy)
    if names.reads_region and perspective.scope != "region":
        message = "the prompt reads a region, but the perspective looks at the whole picture"
        yield _finding("error", "prompt", message, 'Add "scope": "region" and "regions", or remove it.')


def _lint_schema(perspective: Perspective) -> Iterator[Finding]:
    if not perspective.schema_fields:
        yield _finding("error", "schema_fields", "there are no fields", "Declare at least one field.")
    yield from _lint_duplicates("schema_fields", perspective.schema_fields)
    for path, field in perspective.walk_fields():
        yield from _lint_bounds(path, field)
        yield from _lint_useless(path, field)
        if field.enum is not None:
            yield from _lint_enum(path, field)
        if field.fields is not None:
            if not field.fields:
                remedy = "Declare its fields, or delete the key for an object with any content."
                yield _finding("error", f"{path}.fields", f"the object {quote(field.name)} has no fields", remedy)
            yield from _lint_duplicates(f"{path}.fields", field.fields)
        elif field.is_complex:
            message = f"{quote(field.name)} is complex, but declares no fields; it is a plain {quote(field.type)}"
            yield _finding("warning", path, message, "Declare its fields, or delete is_complex.")


def _lint_duplicates(path: str, fields: Sequence[SchemaField]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for index, field in enumerate(fields):
        key = field.name.lower()  # SQL does not tell apart names that differ in case only
        if key in seen:
            message = f"there is a field {quote(seen[key])} already (case does not count)"
            yield _finding("error", f"{path}[{index}].name", message, "Rename one of the two.")
        seen.setdefault(key, field.name)


def _lint_bounds(path: str, field: SchemaField) -> Iterator[Finding]:
    for low_name, high_name in _BOUNDS:
        low, high = getattr(field, low_name), getattr(field, high_name)
        if low is not None and high is not None and low > high:
            yield _finding("error", path, f"{low_name} {low} is above {high_name} {high}", "Exchange or correct them.")
    for name in ("minimum", "maximum"):
        bound = getattr(field, name)
        if isinstance(bound, float) and not math.isfinite(bound):
            yield _finding("error", f"{path}.{name}", f"{bound} is no bound", "Use a finite number, or delete it.")
        elif isinstance(bound, float) and field.type == "int" and not bound.is_integer():
            message = f"{bound} is no whole number, but the field is an int"
            yield _finding("error", f"{path}.{name}", message, 'Use a whole number, or the type "float".')


def _lint_useless(path: str, field: SchemaField) -> Iterator[Finding]:
    kind = "object" if field.is_object else field.type
    meant_for = {
        "min_length": ("str",),
        "max_length": ("str",),
        "minimum": ("int", "float"),
        "maximum": ("int", "float"),
        "enum": ("str", "int", "float", "bool"),
    }
    for name, kinds in meant_for.items():
        if getattr(field, name) is not None and kind not in kinds:
            message = f"{name} has no effect on a field of type {quote(kind)}"
            yield _finding("warning", f"{path}.{name}", message, f"It is for {' and '.join(kinds)}; delete it.")
    if not field.is_list:
        for name in ("min_items", "max_items"):
            if getattr(field, name) is not None:
                message = f"{name} has no effect, for the field is no list"
                yield _finding("warning", f"{path}.{name}", message, 'Add "is_list": true, or delete it.')


def _lint_enum(path: str, field: SchemaField) -> Iterator[Finding]:
    if field.is_object or field.type == "dict":
        return
    if not field.enum:
        yield _finding("error", f"{path}.enum", "no value is allowed", "List the values, or delete enum.")
        return
    validator = Draft202012Validator(item_schema(field))
    for index, value in enumerate(field.enum):
        problem = best_match(validator.iter_errors(value))
        if problem is not None:
            message = f"{value!r} does not fit its own field: {problem.message}"
            yield _finding("error", f"{path}.enum[{index}]", message, f"Every value must be a valid {field.type}.")
        elif value in field.enum[:index]:
            yield _finding("warning", f"{path}.enum[{index}]", f"{value!r} stands twice", "Delete one of the two.")


def _lint_context_template(perspective: Perspective) -> Iterator[Finding]:
    if perspective.scope == "region":
        return  # what its rows hold is known with its input only
    for placeholder in dict.fromkeys(placeholders(perspective.context_template)):
        fields: Sequence[SchemaField] = perspective.schema_fields
        free_form = False
        for name in placeholder.split("."):
            field = next((field for field in fields if field.name == name), None)
            if field is None:
                if not free_form:
                    message = f"{{{placeholder}}} names no field and is left out"
                    remedy = suggestion(name, (field.name for field in fields), "The fields are")
                    yield _finding("warning", "context_template", message, remedy)
                break
            free_form = field.type == "dict" and not field.is_object
            fields = field.fields or ()


def _lint_table(perspective: Perspective) -> Iterator[Finding]:
    """Columns are mere headings, of which none is a field, or names of fields: then one that is none is a slip."""
    names = {field.name for field in perspective.schema_fields}
    strangers = [
        (index, column.name)
        for index, column in enumerate(perspective.table_columns)
        if column.name.strip().lower().replace(" ", "_") not in {name.lower() for name in names}
    ]
    if len(strangers) == len(perspective.table_columns):
        return
    for index, column in strangers:
        where = f"table_columns[{index}].name"
        remedy = suggestion(column, names, "The fields are")
        yield _finding("warning", where, f"the column {quote(column)} names no field", remedy)


def _lint_rest(perspective: Perspective) -> Iterator[Finding]:
    if perspective.deprecated and not perspective.replacement:
        message = "the perspective is deprecated, but names no replacement"
        yield _finding("warning", "replacement", message, 'Add "replacement", or delete "deprecated".')
    for index, name in enumerate(perspective.inputs or ()):
        if name in (perspective.inputs or ())[:index]:
            yield _finding("warning", f"inputs[{index}]", f"{quote(name)} stands twice", "Delete one of the two.")
    if not perspective.image and perspective.inputs == () and not _reads_source(perspective):
        message = "the perspective sees neither the picture nor any input"
        yield _finding("warning", "image", message, 'Set "image": true, or declare inputs.')


def _reads_source(perspective: Perspective) -> bool:
    try:
        return bool(template_names(perspective.prompt).source)
    except TemplateSyntaxError:
        return False


# --- Between files --------------------------------------------------------------------------------------------------


def _lint_references(perspective: Perspective, file: Path | None, library: Library) -> Iterator[Finding]:
    known = library.perspectives
    replacement = perspective.replacement
    if replacement is not None and replacement not in known:
        remedy = suggestion(replacement, known, "The library has")
        yield Finding("error", file, "replacement", f"there is no perspective {quote(replacement)}", remedy)
    for index, name in enumerate(perspective.inputs or ()):
        if name not in known:
            remedy = suggestion(name, known, "The library has")
            yield Finding("error", file, f"inputs[{index}]", f"there is no perspective {quote(name)}", remedy)
    try:
        used = template_names(perspective.prompt)
    except TemplateSyntaxError:  # reported with the prompt
        return
    for name, field in used.input_fields:
        if name in known and field not in (fields := _output_fields(known[name], known)):
            what = f"the prompt reads inputs.{name}.{field}, but {quote(name)} has no such field"
            yield Finding("warning", file, "prompt", what, suggestion(field, fields, "It has"))
    reads_all = perspective.inputs is None and perspective.type == "synthesizer"
    for namespace, names in (("inputs", used.inputs), ("context", used.context)):
        for name in names:
            if name in (perspective.inputs or ()):
                continue
            what = f"the prompt reads {namespace}.{name}, which is no declared input"
            if name not in known:
                yield Finding("error", file, "prompt", what, suggestion(name, known, "The library has"))
            elif reads_all:
                remedy = f'Add it to "inputs", or see to it that {quote(name)} is always enabled.'
                yield Finding("warning", file, "prompt", what, remedy)
            else:
                yield Finding("error", file, "prompt", what, f'Add {quote(name)} to "inputs".')


def _output_fields(perspective: Perspective, known: Mapping[str, Perspective]) -> list[str]:
    return [field.name for field in output_form(perspective, known).schema_fields]


def _lint_region(perspective: Perspective, library: Library) -> Iterator[Finding]:
    if perspective.scope == "region":
        yield from lint_boxes(perspective, library.perspectives)
        yield from _lint_context_template(output_form(perspective, library.perspectives))


def _lint_cycles(library: Library) -> Iterator[Finding]:
    inputs = {name: list(perspective.inputs or ()) for name, perspective in library.perspectives.items()}
    while cycle := find_cycle(inputs):
        message = f"the inputs form a cycle: {' reads '.join(cycle)}"
        remedy = "Remove one of these inputs."
        yield Finding("error", library.files.get(cycle[0]), "inputs", message, remedy)
        for name in cycle:
            inputs[name] = []
