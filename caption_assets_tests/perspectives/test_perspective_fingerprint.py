"""Fingerprints change exactly when what a model is asked or what it may answer changes."""

import re
from typing import Any

import pytest

from caption_assets.perspectives import (
    Library,
    Perspective,
    ResolvedPerspective,
    combine_parts,
    explain,
    fingerprint,
    fingerprint_parts,
    resolve,
)

BASE: dict[str, Any] = {
    "name": "base",
    "prompt": "Describe it.",
    "schema_fields": [{"name": "a", "description": "First."}, {"name": "b", "type": "int"}],
    "context_template": "{a}",
}
READER: dict[str, Any] = {
    "name": "reader",
    "prompt": "Sum up.",
    "schema_fields": [{"name": "c"}],
    "inputs": ["base"],
}
ENGINE: dict[str, Any] = {"model": "m", "dtype": "bfloat16", "pixels": {"max": 10, "min": 1}}


def resolved(reader: dict[str, Any], base: dict[str, Any] = BASE) -> ResolvedPerspective:
    perspectives = [Perspective.model_validate(base), Perspective.model_validate(reader)]
    library = Library({perspective.name: perspective for perspective in perspectives}, {})
    return next(one for one in resolve(library, list(library.perspectives), {}) if one.name == reader["name"])


def print_of(reader: dict[str, Any] = READER, base: dict[str, Any] = BASE, **engine: Any) -> str:
    return fingerprint(resolved(reader, base), {"base": "0" * 16}, ENGINE | engine)


def alone(**changes: Any) -> str:
    file = BASE | changes
    one = ResolvedPerspective(Perspective.model_validate(file), (), 0)
    return fingerprint(one, {}, ENGINE)


def test_a_fingerprint_is_sixteen_hexadecimal_digits_and_stable() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", alone())
    assert alone() == alone()
    assert fingerprint(ResolvedPerspective(Perspective.model_validate(BASE), (), 0), {}, {}) == "0e17af9f4987aaa7"


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Describe it!"},
        {"schema_fields": [{"name": "b", "type": "int"}, {"name": "a", "description": "First."}]},
        {"schema_fields": [{"name": "a", "description": "First."}, {"name": "b", "type": "int", "maximum": 3}]},
        {"schema_fields": [{"name": "a", "description": "First.", "max_length": 9}, {"name": "b", "type": "int"}]},
        {"schema_fields": [{"name": "a", "description": "Other."}, {"name": "b", "type": "int"}]},
        {"describe_schema": False},
        {"image": False},
        {"scope": "region"},
        {"sampling": {"temperature": 0.1}},
        {"sampling": {"seed": 1}},
        {"sampling": {"max_tokens": 99}},
    ],
)
def test_what_counts(changes: dict[str, Any]) -> None:
    assert alone(**changes) != alone()


@pytest.mark.parametrize(
    "changes",
    [
        {"display_name": "Another title"},
        {"description": "Another description"},
        {"tags": ["x"]},
        {"priority": 1},
        {"version": "2"},
        {"module": "other"},
        {"table_columns": [{"name": "a"}]},
        {"engine": "pool"},
        {"context_template": "{b}"},
        {"sampling": {"temperature": 0, "max_tokens": 1024}},
        {"name": "renamed"},
        {"deprecated": True, "replacement": "other"},
    ],
)
def test_what_does_not_count(changes: dict[str, Any]) -> None:
    assert alone(**changes) == alone()


def test_descriptions_count_only_where_the_prompt_shows_them() -> None:
    other = [{"name": "a", "description": "Other."}, {"name": "b", "type": "int"}]
    assert alone(describe_schema=False, schema_fields=other) == alone(describe_schema=False)


def test_the_engines_identity_counts_in_any_order() -> None:
    assert print_of(model="other") != print_of()
    assert print_of(pixels={"max": 11, "min": 1}) != print_of()
    assert print_of(pixels={"min": 1, "max": 10}) == print_of()
    assert print_of(quantization=None) != print_of()


def test_inputs_count_with_their_fingerprint_and_the_template_they_are_read_through() -> None:
    one = resolved(READER)
    assert fingerprint(one, {"base": "1" * 16}, ENGINE) != fingerprint(one, {"base": "2" * 16}, ENGINE)
    assert fingerprint(one, {"base": "1" * 16, "x": "y"}, ENGINE) == fingerprint(one, {"base": "1" * 16}, ENGINE)
    assert print_of(base=BASE | {"context_template": "{b}"}) != print_of()
    assert print_of(base=BASE | {"priority": 1, "tags": ["x"]}) == print_of()
    with pytest.raises(KeyError):
        fingerprint(one, {}, ENGINE)


def test_an_inputs_title_counts_only_where_it_is_a_heading() -> None:
    titled = BASE | {"display_name": "Another title"}
    assert print_of(base=titled) != print_of()
    explicit = READER | {"prompt": "Sum up {{ context.base }}."}
    assert print_of(explicit, titled) == print_of(explicit)


def test_an_identity_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        print_of(model=object())


def test_changes_are_explained_by_part() -> None:
    old = fingerprint_parts(resolved(READER), {"base": "1" * 16}, ENGINE)
    changed = READER | {"prompt": "Sum it up.", "sampling": {"temperature": 0.5, "seed": 3}}
    new = fingerprint_parts(
        resolved(changed, BASE | {"context_template": "{b}"}), {"base": "2" * 16}, {"model": "n", "dtype": "bfloat16"}
    )
    assert set(explain(old, new)) == {
        "prompt changed",
        "sampling.temperature changed",
        "sampling.seed added",
        "engine.model changed",
        "engine.pixels removed",
        "input base changed",
        "context template of base changed",
    }
    assert explain(old, old) == []
    assert combine_parts(old) == fingerprint(resolved(READER), {"base": "1" * 16}, ENGINE)
