"""The lint: each defect once, with a level, a place and a remedy; and nothing about what is fine."""

from pathlib import Path
from typing import Any

import pytest

from caption_assets.perspectives import Finding, Library, Perspective, lint


def library_of(*files: dict[str, Any]) -> Library:
    defaults = {"prompt": "Describe it.", "schema_fields": [{"name": "caption"}], "module": "m"}
    perspectives = [Perspective.model_validate(defaults | file) for file in files]
    names = [perspective.name for perspective in perspectives]
    return Library(dict(zip(names, perspectives, strict=True)), {name: Path(f"{name}.json") for name in names})


def findings_of(*files: dict[str, Any]) -> set[tuple[str, str]]:
    return {(finding.level, finding.field) for finding in lint(library_of(*files))}


def field(**content: Any) -> dict[str, Any]:
    return {"name": "x", "schema_fields": [{"name": "a"} | content]}


A = "schema_fields[0]"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({"name": "x"}, set()),
        ({"name": "x", "prompt": " \n"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ source.title"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{% for %}"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ source.title | no_such_filter }}"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ source.title }}"}, set()),
        ({"name": "x", "schema_fields": []}, {("error", "schema_fields")}),
        ({"name": "x", "schema_fields": [{"name": "a"}, {"name": "a"}]}, {("error", "schema_fields[1].name")}),
        ({"name": "x", "schema_fields": [{"name": "Tag"}, {"name": "tag"}]}, {("error", "schema_fields[1].name")}),
        (field(fields=[{"name": "b"}, {"name": "b"}]), {("error", f"{A}.fields[1].name")}),
        (field(fields=[]), {("error", f"{A}.fields")}),
        (field(is_complex=True), {("warning", A)}),
        (field(is_complex=True, fields=[{"name": "b"}]), set()),
        (field(min_length=3, max_length=2), {("error", A)}),
        (field(type="float", minimum=1, maximum=0.5), {("error", A)}),
        (field(type="int", minimum=0.5), {("error", f"{A}.minimum")}),
        (field(type="int", minimum=1.0), set()),
        (field(is_list=True, min_items=2, max_items=1), {("error", A)}),
        (field(min_items=1), {("warning", f"{A}.min_items")}),
        (field(type="int", max_length=1), {("warning", f"{A}.max_length")}),
        (field(minimum=1), {("warning", f"{A}.minimum")}),
        (field(fields=[{"name": "b"}], enum=["c"]), {("warning", f"{A}.enum")}),
        (field(enum=[]), {("error", f"{A}.enum")}),
        (field(enum=["b", 1]), {("error", f"{A}.enum[1]")}),
        (field(type="int", enum=[1, True]), {("error", f"{A}.enum[1]")}),
        (field(type="int", enum=[1, 7], maximum=5), {("error", f"{A}.enum[1]")}),
        (field(enum=["a", "a"]), {("warning", f"{A}.enum[1]")}),
        ({"name": "x", "context_template": "{captoin} {caption} {caption.deep}"}, {("warning", "context_template")}),
        (field(fields=[{"name": "b"}]) | {"context_template": "{a.b} {a}"}, set()),
        (field(type="dict") | {"context_template": "{a.anything}"}, set()),
        ({"name": "x", "table_columns": [{"name": "Heading"}, {"name": "Other"}]}, set()),
        (
            {"name": "x", "table_columns": [{"name": "Caption"}, {"name": "captoin"}]},
            {("warning", "table_columns[1].name")},
        ),
        ({"name": "x", "scope": "region"}, {("error", "regions")}),
        ({"name": "x", "prompt": "{{ region.label }}"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ title }}"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ source.__class__.mro() }}"}, {("error", "prompt")}),
        ({"name": "x", "prompt": "{{ source['__class__'] }}"}, set()),
        ({"name": "x", "prompt": "{% for t in source.tags %}{{ loop.index }} {{ t }}{% endfor %}"}, set()),
        ({"name": "x", "deprecated": True}, {("warning", "replacement")}),
        ({"name": "x", "deprecated": True, "replacement": "y"}, {("error", "replacement")}),
        ({"name": "x", "inputs": ["y"]}, {("error", "inputs[0]")}),
        ({"name": "x", "inputs": ["x"]}, {("error", "inputs")}),
        ({"name": "x", "image": False, "inputs": []}, {("warning", "image")}),
        ({"name": "x", "image": False, "inputs": [], "prompt": "{{ source.title }}"}, set()),
    ],
)
def test_findings(file: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert findings_of(file) == expected


def test_inputs_read_by_a_prompt_must_be_declared() -> None:
    base = {"name": "base"}
    reads = "{{ context.base }} {{ inputs['base'].caption }}"
    assert findings_of(base, {"name": "x", "prompt": reads}) == {("error", "prompt")}
    assert findings_of(base, {"name": "x", "prompt": reads, "inputs": ["base"]}) == set()
    assert findings_of(base, {"name": "x", "prompt": reads, "type": "synthesizer"}) == {("warning", "prompt")}
    loop = "{% for name, text in context.items() %}{{ name }}: {{ text }}{% endfor %}"
    assert findings_of(base, {"name": "x", "prompt": loop, "type": "synthesizer"}) == set()


def test_every_cycle_is_reported() -> None:
    files = [
        {"name": "a", "inputs": ["b"]},
        {"name": "b", "inputs": ["c"]},
        {"name": "c", "inputs": ["a"]},
        {"name": "d", "inputs": ["e"]},
        {"name": "e", "inputs": ["d", "a"]},
    ]
    cycles = [finding for finding in lint(library_of(*files)) if finding.field == "inputs"]
    assert len(cycles) == 2
    assert {name for finding in cycles for name in "abcde" if f"reads {name}" in finding.message} == set("abcde")


def test_remedies_suggest_the_closest_names() -> None:
    (finding,) = lint(library_of({"name": "art_critic"}, {"name": "x", "inputs": ["art_critics"]}))
    assert finding.remedy == 'Did you mean "art_critic"?'
    assert str(finding) == (
        'error: x.json: inputs[0]: there is no perspective "art_critics". Did you mean "art_critic"?'
    )


def test_a_finding_about_no_file_is_readable() -> None:
    assert str(Finding("note", None, "", "all is well")) == "note: all is well"
