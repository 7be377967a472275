"""Schemas enforce nested fields, and only an output that fits and can be stored is a caption."""

import json
from typing import Any

import pyarrow as pa
import pytest

from caption_assets.perspectives import (
    InvalidOutput,
    Perspective,
    arrow_type,
    from_arrow_value,
    guided_schema,
    json_schema,
    to_arrow_value,
    validate_output,
)

FIELDS: list[dict[str, Any]] = [
    {"name": "caption", "max_length": 40, "min_length": 1},
    {
        "name": "objects",
        "is_list": True,
        "max_items": 3,
        "is_complex": True,
        "fields": [
            {"name": "label", "enum": ["dog", "cat"]},
            {"name": "box", "fields": [{"name": "x", "type": "float", "minimum": 0, "maximum": 1}]},
            {"name": "ids", "type": "int", "is_list": True, "min_items": 1, "optional": True},
        ],
    },
    {"name": "sure", "type": "bool"},
    {"name": "extra", "type": "dict", "optional": True},
]
OUTPUT: dict[str, Any] = {
    "caption": "Zwölf Bären",
    "objects": [{"label": "dog", "box": {"x": 0.5}, "ids": [1, 2]}, {"label": "cat", "box": {"x": 1}}],
    "sure": False,
    "extra": {"a": [1, {"b": None}], "ü": "ö"},
}


def perspective(*fields: dict[str, Any]) -> Perspective:
    return Perspective.model_validate({"name": "x", "prompt": "p", "schema_fields": list(fields)})


ALL = perspective(*FIELDS)


def invalid(text: str, one: Perspective = ALL) -> InvalidOutput:
    with pytest.raises(InvalidOutput) as caught:
        validate_output(one, text)
    return caught.value


def test_the_schema_has_nested_fields_in_order() -> None:
    schema = json_schema(ALL)
    assert list(schema["properties"]) == ["caption", "objects", "sure", "extra"]
    assert schema["required"] == ["caption", "objects", "sure"]
    assert schema["properties"]["caption"] == {"type": "string", "minLength": 1, "maxLength": 40}
    assert schema["properties"]["objects"] == {
        "type": "array",
        "maxItems": 3,
        "items": {
            "type": "object",
            "properties": {
                "label": {"type": "string", "enum": ["dog", "cat"]},
                "box": {
                    "type": "object",
                    "properties": {"x": {"type": "number", "minimum": 0, "maximum": 1}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
                "ids": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            },
            "required": ["label", "box"],
            "additionalProperties": False,
        },
    }


def test_the_guided_schema_differs_in_the_lengths_of_texts_only() -> None:
    expected = json_schema(ALL)
    expected["properties"]["caption"] = {"type": "string"}
    assert guided_schema(ALL) == expected
    odd = perspective({"name": "minLength", "type": "int"}, {"name": "type", "max_length": 3})
    assert guided_schema(odd)["properties"] == {"minLength": {"type": "integer"}, "type": {"type": "string"}}


def test_a_valid_output_is_returned_in_the_order_of_the_fields() -> None:
    shuffled = dict(reversed(OUTPUT.items()))
    result = validate_output(ALL, json.dumps(shuffled))
    assert result == OUTPUT
    assert list(result) == list(OUTPUT)


@pytest.mark.parametrize("wrap", [" {} \n", "```json\n{}\n```", "\n```json{}```  ", "```json\n  {}\n\n```"])
def test_whitespace_and_one_json_fence_are_accepted(wrap: str) -> None:
    assert validate_output(ALL, wrap.replace("{}", json.dumps(OUTPUT))) == OUTPUT


@pytest.mark.parametrize(
    "wrap",
    ["```\n{}\n```", "Here: {}", "{} Done.", "```json\n{}", "{}\n```", "```json\n```json\n{}\n```\n```", "[{}]x"],
)
def test_nothing_more_lenient_is(wrap: str) -> None:
    assert invalid(wrap.replace("{}", json.dumps(OUTPUT))).kind == "not_json"


@pytest.mark.parametrize("text", ["", " \n\t ", "```json\n```", "```json```"])
def test_an_empty_answer_is_empty(text: str) -> None:
    assert invalid(text).kind == "empty"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"caption": "a', "Unterminated"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"x": {"b": 1, "b": 1}}', "duplicate key 'b'"),
        ('{"a": "\\ud83d"}', "lone surrogate"),
        ('{"\\udc00": 1}', "lone surrogate"),
        ('{"a": "line\nbreak"}', "control character"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1,}', "double quotes"),
        ('{"a": 1' + "".join(str(i) for i in range(2000)) + "}", "digits"),
    ],
)
def test_what_is_no_json(text: str, words: str) -> None:
    error = invalid(text)
    assert error.kind == "not_json"
    assert words in error.message


def test_no_depth_of_nesting_crashes() -> None:
    free = perspective({"name": "a", "type": "dict"})
    for depth in (62, 63, 64, 900, 980, 1000, 100_000):
        text = '{"a":' * depth + "{}" + "}" * depth
        if depth <= 64:
            to_arrow_value(free, validate_output(free, text))
        else:
            assert invalid(text, free).kind in ("not_json", "repetition")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"objects": ["a dog"]}, "objects[0]"),
        ({"objects": [{"label": "dog", "box": {}}]}, "objects[0].box"),
        ({"objects": [{"label": "dog", "box": {"x": 0.5, "y": 1}}]}, "objects[0].box"),
        ({"objects": [{"label": "cow", "box": {"x": 0.5}}]}, "objects[0].label"),
        ({"objects": [{"label": "dog", "box": {"x": 1.5}}]}, "objects[0].box.x"),
        ({"objects": [{"label": "dog", "box": {"x": "0.5"}}]}, "objects[0].box.x"),
        ({"objects": [{"label": "dog", "box": {"x": 0.5}, "ids": []}]}, "objects[0].ids"),
        ({"objects": [{"label": "dog", "box": {"x": i / 9}} for i in range(4)]}, "objects"),
        ({"caption": ""}, "caption"),
        ({"caption": "".join(chr(97 + i % 23) for i in range(41))}, "caption"),
        ({"caption": None}, "caption"),
        ({"sure": 1}, "sure"),
        ({"extra": "{}"}, "extra"),
        ({"extra": None}, "extra"),
        ({"more": 1}, "the answer"),
    ],
)
def test_what_does_not_fit_the_schema(changes: dict[str, Any], where: str) -> None:
    error = invalid(json.dumps(OUTPUT | changes))
    assert error.kind == "schema"
    assert error.message.startswith(f"{where}: ")
    assert len(error.message) < 500


@pytest.mark.parametrize("text", ["3", '"text"', "null", "[]"])
def test_an_answer_must_be_an_object(text: str) -> None:
    assert invalid(text).kind == "schema"


def test_whole_numbers_may_be_written_with_a_fraction_of_zero() -> None:
    one = perspective({"name": "n", "type": "int"}, {"name": "f", "type": "float"})
    result = validate_output(one, '{"n": 3.0, "f": 3}')
    assert repr(result) == "{'n': 3, 'f': 3}"
    assert repr(to_arrow_value(one, result)) == "{'n': 3, 'f': 3.0}"
    assert invalid('{"n": 3.5, "f": 3}', one).kind == "schema"
    assert invalid('{"n": true, "f": 3}', one).kind == "schema"


@pytest.mark.parametrize(("value", "fits"), [(2**63 - 1, True), (-(2**63), True), (2**63, False), (10**400, False)])
def test_whole_numbers_must_fit_into_64_bits(value: int, fits: bool) -> None:
    for kind, text in (("int", f'{{"n": {value}}}'), ("float", f'{{"n": {value}}}')):
        one = perspective({"name": "n", "type": kind})
        if fits or (kind == "float" and value == 2**63):
            pa.array([to_arrow_value(one, validate_output(one, text))], arrow_type(one))
        else:
            assert invalid(text, one).kind == "schema"


def test_arrow_types_mirror_the_schema() -> None:
    assert arrow_type(ALL) == pa.struct(
        {
            "caption": pa.string(),
            "objects": pa.list_(
                pa.struct({"label": pa.string(), "box": pa.struct({"x": pa.float64()}), "ids": pa.list_(pa.int64())})
            ),
            "sure": pa.bool_(),
            "extra": pa.string(),
        }
    )


def test_outputs_become_arrow_values_and_come_back() -> None:
    value = to_arrow_value(ALL, OUTPUT)
    assert value["extra"] == '{"a":[1,{"b":null}],"ü":"ö"}'
    assert value["objects"][1]["ids"] is None
    stored = pa.array([value], arrow_type(ALL)).to_pylist()[0]
    assert from_arrow_value(ALL, stored) == OUTPUT
    without = {key: item for key, item in OUTPUT.items() if key != "extra"}
    assert to_arrow_value(ALL, without)["extra"] is None
    assert from_arrow_value(ALL, to_arrow_value(ALL, without)) == without


# --- Repetition loops -----------------------------------------------------------------------------------------------

TEXT = perspective({"name": "caption"}, {"name": "tags", "is_list": True, "optional": True})
LOOPS = [
    "A street with " + "a red car and " * 6,
    "the " * 12,
    "one two three four five six seven eight nine ten eleven twelve. " * 4,
    "no " * 5 + "left right " * 6,
    "0" * 60,
    "赤い車と" * 12,
    "\n" * 200,
    "ab" * 30,
]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_repetition_loop_in_a_text_is_found(loop: str) -> None:
    error = invalid(json.dumps({"caption": loop}), TEXT)
    assert error.kind == "repetition"
    assert "repeated" in error.message


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_was_cut_off_is_a_repetition_too(loop: str) -> None:
    text = json.dumps({"caption": "A " + loop * 2}, ensure_ascii=False)[:-4]
    assert invalid(text, TEXT).kind == "repetition"


def test_a_loop_of_list_items_is_found_even_where_it_breaks_the_schema() -> None:
    assert invalid(json.dumps({"caption": "x", "tags": ["a very small red house"] * 4}), TEXT).kind == "repetition"
    pair = ["a very small house", "a very big house"]
    assert invalid(json.dumps({"caption": "x", "tags": ["start", *pair * 4]}), TEXT).kind == "repetition"
    same = {"label": "dog", "box": {"x": 0.5}}
    assert invalid(json.dumps(OUTPUT | {"objects": [same] * 4})).kind == "repetition"


@pytest.mark.parametrize(
    "text",
    [
        "A very, very, very small dog.",
        "no no no no no no no no no no no",
        "left, right, left, right, left, right",
        "----------------------------------------",
        "One red car, one blue car, one green car, one white car, one black car, one grey car and one pink car.",
        "He said that she said that he said that she had said it.",
    ],
)
def test_ordinary_language_is_no_loop(text: str) -> None:
    assert validate_output(TEXT, json.dumps({"caption": text})) == {"caption": text}


def test_short_and_numeric_lists_may_repeat_items() -> None:
    one = perspective({"name": "n", "type": "int", "is_list": True}, {"name": "t", "is_list": True})
    output = {"n": [255] * 100, "t": ["a", "a", "a", "a", "b"]}
    assert validate_output(one, json.dumps(output)) == output
    long = {"n": [], "t": ["a very small red house"] * 3}
    assert validate_output(one, json.dumps(long)) == long
