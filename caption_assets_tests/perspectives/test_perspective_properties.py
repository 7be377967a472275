"""Properties: for any schema, valid outputs pass and survive storage, and broken ones do not pass."""

import copy
import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from caption_assets.perspectives import (
    InvalidOutput,
    Perspective,
    SchemaField,
    arrow_type,
    describe_schema,
    find_repetition,
    from_arrow_value,
    lint_perspective,
    render_context,
    to_arrow_value,
    validate_output,
)

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
TEXTS = st.text(max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=6,
)


@st.composite
def bounds(draw: st.DrawFn, low_name: str, high_name: str, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    low, high = sorted([draw(values), draw(values)])
    return {low_name: low, high_name: high} if draw(st.booleans()) else {}


@st.composite
def schema_field(draw: st.DrawFn, name: str, depth: int) -> dict[str, Any]:
    field: dict[str, Any] = {"name": name, "optional": draw(st.booleans()), "is_list": draw(st.booleans())}
    if field["is_list"]:
        field |= draw(bounds("min_items", "max_items", st.integers(0, 4)))
    if depth and draw(st.booleans()):
        return field | {"type": draw(st.sampled_from(["dict", "str"])), "fields": draw(schema_fields(depth - 1))}
    field["type"] = draw(st.sampled_from(["str", "int", "float", "bool", "dict"]))
    if field["type"] == "str":
        if draw(st.booleans()):
            return field | {"enum": draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))}
        field |= draw(bounds("min_length", "max_length", st.integers(0, 12)))
    elif field["type"] == "int":
        field |= draw(bounds("minimum", "maximum", st.integers(-100, 100)))
    elif field["type"] == "float":
        field |= draw(bounds("minimum", "maximum", st.floats(-100, 100)))
    return field


@st.composite
def schema_fields(draw: st.DrawFn, depth: int = 2) -> list[dict[str, Any]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))
    return [draw(schema_field(name, depth)) for name in names]


def item_values(field: SchemaField) -> st.SearchStrategy[Any]:
    if field.fields is not None:
        return objects(field.fields)
    if field.enum is not None:
        return st.sampled_from(field.enum)
    match field.type:
        case "str":
            return st.text(
                min_size=field.min_length or 0, max_size=12 if field.max_length is None else field.max_length
            )
        case "int":
            low = -(2**63) if field.minimum is None else int(field.minimum)
            return st.integers(low, 2**63 - 1 if field.maximum is None else int(field.maximum))
        case "float":
            return st.floats(field.minimum, field.maximum, allow_nan=False, allow_infinity=False)
        case "bool":
            return st.booleans()
        case "dict":
            return st.dictionaries(TEXTS, JSON_VALUES, max_size=3)


@st.composite
def objects(draw: st.DrawFn, fields: tuple[SchemaField, ...]) -> dict[str, Any]:
    value = {}
    for field in fields:
        if field.optional and draw(st.booleans()):
            continue
        if field.is_list:
            high = 4 if field.max_items is None else field.max_items
            value[field.name] = draw(st.lists(item_values(field), min_size=field.min_items or 0, max_size=high))
        else:
            value[field.name] = draw(item_values(field))
    return value


@st.composite
def cases(draw: st.DrawFn) -> tuple[Perspective, dict[str, Any]]:
    file = {"name": "x", "prompt": "p", "schema_fields": draw(schema_fields())}
    perspective = Perspective.model_validate(file)
    output = draw(objects(perspective.schema_fields))
    assume(find_repetition(output) is None)
    return perspective, output


PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@PROPERTY
@given(cases(), st.booleans())
def test_valid_outputs_pass_and_survive_parquet(case: tuple[Perspective, dict[str, Any]], ascii_only: bool) -> None:
    perspective, output = case
    assert lint_perspective(perspective) == []
    validated = validate_output(perspective, json.dumps(output, ensure_ascii=ascii_only))
    assert validated == output
    assert to_arrow_value(perspective, validated).keys() == {field.name for field in perspective.schema_fields}
    column = pa.array([to_arrow_value(perspective, validated)], arrow_type(perspective))
    file = io.BytesIO()
    pq.write_table(pa.table({"output": column}), file)
    stored = pq.read_table(file).column("output").to_pylist()[0]
    assert from_arrow_value(perspective, stored) == validated
    assert render_context(perspective, from_arrow_value(perspective, stored)) == render_context(perspective, validated)
    assert describe_schema(perspective)


def places(
    fields: tuple[SchemaField, ...], value: dict[str, Any]
) -> list[tuple[dict[str, Any], tuple[SchemaField, ...]]]:
    """List every object with declared fields in an output, with its fields."""
    found = [(value, fields)]
    for field in fields:
        if field.fields is not None and field.name in value:
            items = value[field.name] if field.is_list else [value[field.name]]
            found += [place for item in items for place in places(field.fields, item)]
    return found


def mutations(field: SchemaField, target: dict[str, Any]) -> list[Any]:
    """List values of a field that cannot be valid."""
    broken: list[Any] = [None, "x" if field.is_list or field.is_object or field.type != "str" else 5]
    if field.is_list:
        if field.max_items is not None:
            broken.append([target[field.name][0]] * (field.max_items + 1) if target[field.name] else None)
        if field.min_items:
            broken.append([])
        return [*broken, [None]]
    if field.is_object:
        return [*broken, []]
    if field.enum is not None:
        broken.append("no such value of the enum")
    if field.max_length is not None:
        broken.append("é" * (field.max_length + 1))
    if field.min_length:
        broken.append("")
    if field.maximum is not None:
        broken.append(field.maximum + 1)
    if field.minimum is not None:
        broken.append(field.minimum - 1)
    return [*broken, ["x"]]


@PROPERTY
@given(cases(), st.data())
def test_broken_outputs_do_not_pass(case: tuple[Perspective, dict[str, Any]], data: st.DataObject) -> None:
    perspective, valid = case
    output = copy.deepcopy(valid)
    target, fields = data.draw(st.sampled_from(places(perspective.schema_fields, output)))
    present = [field for field in fields if field.name in target]
    required = [field for field in present if not field.optional]
    kinds = ["unknown key", *(["missing key"] if required else []), *(["value"] * 3 if present else [])]
    match data.draw(st.sampled_from(kinds)):
        case "unknown key":
            target["not_a_field"] = 1
        case "missing key":
            del target[data.draw(st.sampled_from(required)).name]
        case "value":
            field = data.draw(st.sampled_from(present))
            target[field.name] = data.draw(st.sampled_from(mutations(field, target)))
    with pytest.raises(InvalidOutput) as caught:
        validate_output(perspective, json.dumps(output))
    assert caught.value.kind in ("schema", "repetition")


@PROPERTY
@given(st.text(max_size=60) | JSON_VALUES.map(json.dumps) | st.text(alphabet='{}[]":,\\ue1NaN', max_size=30))
def test_any_text_is_an_output_or_an_invalid_output(text: str) -> None:
    perspective = Perspective.model_validate({"name": "x", "prompt": "p", "schema_fields": [{"name": "a"}]})
    try:
        output = validate_output(perspective, text)
    except InvalidOutput:
        return
    assert list(output) == ["a"]


@PROPERTY
@given(
    st.text("ab c", min_size=1, max_size=32), st.integers(8, 20), st.text("ab cd", max_size=40), st.text(max_size=40)
)
def test_runs_of_characters_are_found(unit: str, repeats: int, before: str, after: str) -> None:
    text = before + unit * repeats + after
    assume(any(len(match[0]) >= 48 for match in re.finditer(r"(.{1,32}?)\1{7,}", text, re.DOTALL)))
    assert find_repetition(text) is not None


@PROPERTY
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), st.lists(TEXTS, max_size=8))
def test_runs_of_words_are_found(unit: list[str], before: list[str]) -> None:
    repeats = max(4, -(-12 // len(unit)))
    assert find_repetition(" ".join([*before, *unit * repeats])) is not None
