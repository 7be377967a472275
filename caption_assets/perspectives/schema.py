"""What a perspective's output must look like: as JSON Schema, as Arrow type, and as the check every output passes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jsonschema_rs
import pyarrow as pa
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from caption_assets.perspectives.model import Perspective, SchemaField
from caption_assets.perspectives.repetition import find_repetition

InvalidOutputKind = Literal["empty", "not_json", "schema", "repetition"]

_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FENCE_START, _FENCE_END = "```json", "```"
_MESSAGE_LIMIT = 400
_MAX_DEPTH = 64
_MOST_VALIDATORS = 1024
_VALIDATORS: dict[int, tuple[Perspective, jsonschema_rs.Draft202012Validator]] = {}
"""By the perspective's id, which is its own as long as it is kept here: to compare two takes as long as to validate."""


class InvalidOutput(Exception):
    """An engine's answer that is no caption.

    `kind` says why: `empty` (nothing but whitespace), `not_json` (no single, well-formed JSON text that can be stored),
    `schema` (JSON of another shape than the perspective asks for) or `repetition` (the model went into a loop).
    """

    def __init__(self, kind: InvalidOutputKind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind: InvalidOutputKind = kind
        self.message = message


# --- JSON Schema --------------------------------------------------------------------------------------------------


def json_schema(perspective: Perspective) -> dict[str, Any]:
    """Build the JSON Schema (draft 2020-12) of a perspective's output; a new dict at each call.

    This is the schema an output is validated against; an engine is given `guided_schema`. Properties stand in the order
    of the fields, which is the order a model writes them in. Descriptions are left out: they belong to the prompt.
    """
    return _object_schema(perspective.schema_fields)


def guided_schema(perspective: Perspective) -> dict[str, Any]:
    """Build the JSON Schema that guides decoding: `json_schema` without the lengths of texts.

    Structure, enums, numeric bounds and list lengths are enforced while a model writes. Lengths of texts are not:
    xgrammar (up to 0.2.8 at least, mlc-ai/xgrammar#800) allows no escape in a text with a length, so that a model about
    to quote something can only end the text there, and the caption is cut off yet valid. A maximum would cut in
    mid-sentence, too. Both lengths are checked afterwards, by `validate_output`.
    """
    return _without_text_lengths(json_schema(perspective))


def _without_text_lengths(schema: Mapping[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "string":
        return {key: value for key, value in schema.items() if key not in ("minLength", "maxLength")}
    changed = dict(schema)
    if "items" in schema:
        changed["items"] = _without_text_lengths(schema["items"])
    if "properties" in schema:
        changed["properties"] = {name: _without_text_lengths(item) for name, item in schema["properties"].items()}
    return changed


def field_schema(field: SchemaField) -> dict[str, Any]:
    """Build the JSON Schema of one field, its list included."""
    item = item_schema(field)
    if not field.is_list:
        return item
    schema: dict[str, Any] = {"type": "array", "items": item}
    _set(schema, minItems=field.min_items, maxItems=field.max_items)
    return schema


def item_schema(field: SchemaField) -> dict[str, Any]:
    """Build the JSON Schema of a field's value, or of one item when it is a list."""
    if field.fields is not None:
        return _object_schema(field.fields)
    if field.type == "dict":
        # Said explicitly, for strict grammar compilers allow no key that is not declared.
        return {"type": "object", "additionalProperties": True}
    schema: dict[str, Any] = {"type": _JSON_TYPES[field.type]}
    if field.type == "str":
        _set(schema, minLength=field.min_length, maxLength=field.max_length)
    elif field.type in ("int", "float"):
        _set(schema, minimum=_bound(field, field.minimum), maximum=_bound(field, field.maximum))
    if field.enum is not None:
        schema["enum"] = list(field.enum)
    return schema


def _object_schema(fields: Sequence[SchemaField]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: field_schema(field) for field in fields},
        "required": [field.name for field in fields if not field.optional],
        "additionalProperties": False,
    }


def _bound(field: SchemaField, value: float | None) -> int | float | None:
    # A grammar wants whole bounds for whole numbers.
    return int(value) if field.type == "int" and isinstance(value, float) and value.is_integer() else value


def _set(schema: dict[str, Any], **keywords: float | None) -> None:
    schema.update({keyword: value for keyword, value in keywords.items() if value is not None})


# --- Arrow --------------------------------------------------------------------------------------------------------


def arrow_type(perspective: Perspective) -> pa.StructType:
    """Build the Arrow type in which a perspective's outputs are stored.

    It mirrors the JSON Schema; an object without declared fields becomes a string that holds JSON.
    """
    return _struct_type(perspective.schema_fields)


def to_arrow_value(perspective: Perspective, output: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a validated output to a value of `arrow_type`: absent fields are None, free-form objects JSON."""
    return _object_to_arrow(perspective.schema_fields, output)


def from_arrow_value(perspective: Perspective, value: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `to_arrow_value`: the output as it was validated, so that a prompt that reads it says the same again."""
    return _object_from_arrow(perspective.schema_fields, value)


def _struct_type(fields: Sequence[SchemaField]) -> pa.StructType:
    return pa.struct([pa.field(field.name, _field_type(field)) for field in fields])


def _field_type(field: SchemaField) -> pa.DataType:
    if field.fields is not None:
        item: pa.DataType = _struct_type(field.fields)
    else:
        item = {
            "str": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "dict": pa.string(),
        }[field.type]
    return pa.list_(item) if field.is_list else item


def _object_to_arrow(fields: Sequence[SchemaField], value: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: _to_arrow(field, value.get(field.name)) for field in fields}


def _to_arrow(field: SchemaField, value: Any) -> Any:
    if value is None:
        return None
    if field.is_list:
        return [_item_to_arrow(field, item) for item in value]
    return _item_to_arrow(field, value)


def _item_to_arrow(field: SchemaField, value: Any) -> Any:
    if field.fields is not None:
        return _object_to_arrow(field.fields, value)
    if field.type == "dict":
        return compact_json(value)
    if field.type == "int":
        return int(value)
    if field.type == "float":
        return float(value)
    return value


def _object_from_arrow(fields: Sequence[SchemaField], value: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: _from_arrow(field, value[field.name]) for field in fields if value.get(field.name) is not None}


def _from_arrow(field: SchemaField, value: Any) -> Any:
    if field.is_list:
        return [_item_from_arrow(field, item) for item in value]
    return _item_from_arrow(field, value)


def _item_from_arrow(field: SchemaField, value: Any) -> Any:
    if field.fields is not None:
        return _object_from_arrow(field.fields, value)
    return json.loads(value) if field.type == "dict" else value


def compact_json(value: Any) -> str:
    """Write a value as JSON without spaces, with non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# --- Validation ---------------------------------------------------------------------------------------------------


def validate_output(perspective: Perspective, text: str) -> dict[str, Any]:
    """Parse an engine's answer and check it against the perspective's schema, nested fields included.

    Whitespace around the JSON and one ```json fence are accepted, nothing else. The result has its keys in the order of
    the fields, and whole numbers written as `3.0` (valid in JSON Schema) as ints. Duplicate keys, NaN, infinities,
    numbers that do not fit, lone surrogates and more than 64 levels of nesting are rejected, for they would not survive
    storage. A repetition loop (the
    rule stands in `caption_assets.perspectives.repetition`) is reported as such even where it also broke the JSON or
    the schema, because it calls for another remedy: a retry at another temperature.

    Raises:
        InvalidOutput: the answer is no valid output; `kind` says why.
    """
    body = _unfence(text.strip())
    if not body:
        raise InvalidOutput("empty", "the answer is empty")
    try:
        value = _parse(body)
    except (ValueError, RecursionError) as error:
        loop = find_repetition(body)
        if loop is not None:
            raise InvalidOutput("repetition", loop) from error
        raise InvalidOutput("not_json", _shorten(str(error))) from error
    loop = find_repetition(value)
    if loop is not None:
        raise InvalidOutput("repetition", loop)
    if not _compiled(perspective).is_valid(value) and (problem := _problem(perspective, value)):
        raise InvalidOutput("schema", problem)
    return _normalise_object(perspective.schema_fields, value)


def _compiled(perspective: Perspective) -> jsonschema_rs.Draft202012Validator:
    """Says yes a hundred times faster than the validator that can say what is wrong."""
    known = _VALIDATORS.get(id(perspective))
    if known is None:
        if len(_VALIDATORS) > _MOST_VALIDATORS:
            _VALIDATORS.clear()
        known = _VALIDATORS[id(perspective)] = (
            perspective,
            jsonschema_rs.Draft202012Validator(json_schema(perspective)),
        )
    return known[1]


def _problem(perspective: Perspective, value: Any) -> str | None:
    error = best_match(Draft202012Validator(json_schema(perspective)).iter_errors(value))
    if error is None:
        return None
    where = error.json_path.removeprefix("$").lstrip(".") or "the answer"
    return f"{where}: {_shorten(error.message)}"


def _shorten(message: str) -> str:
    """Cut the middle out: such messages begin with the value at fault and end with what is wrong with it."""
    half = _MESSAGE_LIMIT // 2
    return message if len(message) <= _MESSAGE_LIMIT else f"{message[:half]} … {message[-half:]}"


def _unfence(text: str) -> str:
    fenced = len(text) >= len(_FENCE_START) + len(_FENCE_END)
    if fenced and text.startswith(_FENCE_START) and text.endswith(_FENCE_END):
        return text[len(_FENCE_START) : -len(_FENCE_END)].strip()
    return text


def _parse(text: str) -> Any:
    value = _DECODER.decode(text)
    if text.count("{") + text.count("[") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    # Escapes such as \ud800 parse, but text with lone surrogates has no UTF-8 form.
    try:
        (_ENCODER.encode(value) if "\\u" in text else text).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds a lone surrogate, {error.object[error.start]!r}") from error
    return value


def _depth(value: Any) -> int:
    """Count the levels of nesting, without recursion."""
    depth, level = 0, [value]
    while level := [
        child
        for item in level
        if isinstance(item, dict | list)
        for child in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
    return depth


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"duplicate key {twice[0]!r}")
    return value


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_reject_constant, parse_float=_finite_float)
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _normalise_object(fields: Sequence[SchemaField], value: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: _normalise(field, value[field.name]) for field in fields if field.name in value}


def _normalise(field: SchemaField, value: Any) -> Any:
    if field.is_list:
        return [_normalise_item(field, item) for item in value]
    return _normalise_item(field, value)


def _normalise_item(field: SchemaField, value: Any) -> Any:
    if field.fields is not None:
        return _normalise_object(field.fields, value)
    if field.type == "int":
        number = int(value)
        if not _INT64_MIN <= number <= _INT64_MAX:
            raise InvalidOutput("schema", f"{field.name}: {value} does not fit into 64 bits")
        return number
    if field.type == "float":
        try:
            float(value)
        except OverflowError as error:
            raise InvalidOutput("schema", f"{field.name}: the number does not fit into 64 bits") from error
    return value
