"""Perspectives on regions before any run: what is wrong with a file, what their rows and prompts look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from caption_assets.perspectives import (
    Library,
    LibraryError,
    Perspective,
    SelectionError,
    arrow_type,
    fingerprint_parts,
    from_arrow_value,
    lint,
    load_library,
    output_form,
    render_context,
    render_prompt,
    resolve,
    to_arrow_value,
)

BOX = {"name": "box", "type": "int", "is_list": True, "min_items": 4, "max_items": 4}
ANIMALS: dict[str, Any] = {
    "name": "animals",
    "prompt": "Find the animals.",
    "module": "m",
    "schema_fields": [
        {"name": "animals", "is_list": True, "fields": [{"name": "label"}, BOX]},
        {"name": "count", "type": "int"},
        {"name": "places", "is_list": True, "fields": [{"name": "where"}, BOX | {"max_items": 5}]},
    ],
}
OPTIONS: dict[str, Any] = {"input": "animals", "field": "animals", "units": "percent"}
SPECIES: dict[str, Any] = {
    "name": "species",
    "prompt": "Which species is the {{ region.label }}?",
    "module": "m",
    "schema_fields": [{"name": "species"}],
    "context_template": "{regions.species} as {regions.label}",
    "describe_schema": False,
    "scope": "region",
    "inputs": ["animals"],
    "regions": OPTIONS,
}


def library_of(*files: dict[str, Any]) -> Library:
    perspectives = {file["name"]: Perspective.model_validate(file) for file in files}
    return Library(perspectives, {name: Path(f"{name}.json") for name in perspectives})


def options(**changes: Any) -> dict[str, Any]:
    return {"regions": {name: value for name, value in (OPTIONS | changes).items() if value is not None}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"regions": None}, {("regions", 'Add "regions", such as')}),
        ({"scope": "image", "prompt": "What?"}, {("regions", 'Add "scope": "region", or delete regions.')}),
        ({"image": False}, {("image", 'Set "image": true')}),
        ({"inputs": []}, {("regions.input", 'Add "animals" to "inputs".')}),
        ({"inputs": None}, {("regions.input", 'Add "animals" to "inputs".')}),
        (options(field="animal"), {("regions.field", 'Did you mean "animals"?')}),
        (options(field="count"), {("regions.field", 'Name a field with "is_list": true')}),
        (options(box="bbox"), {("regions.box", 'Did you mean "box"?')}),
        (options(box="label") | {"prompt": "?"}, {("regions.box", 'In animals, give it "type": "float" or "int"')}),
        (options(field="places") | {"prompt": "?"}, {("regions.box", 'In animals, give it "type"')}),
        ({"schema_fields": [{"name": "Label"}]}, {("schema_fields[0].name", "Rename this one.")}),
        ({"schema_fields": [{"name": "Box"}]}, {("schema_fields[0].name", "Rename this one.")}),
        ({"prompt": "{{ region.lable }}"}, {("prompt", 'Did you mean "label"?')}),
        ({"prompt": "{{ label }}"}, {("prompt", "Write source.label for a source column")}),
        ({"prompt": "{{ region.box }} {{ region.box_pixels }} {{ region.index }}"}, set()),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(change: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    library = library_of(ANIMALS, {**SPECIES, "context_template": "", **change})
    found = [finding for finding in lint(library) if finding.level == "error"]
    assert {finding.field for finding in found} == {field for field, _ in expected}
    assert all(finding.file == Path("species.json") for finding in found)
    for field, remedy in expected:
        assert any(finding.field == field and finding.remedy.startswith(remedy) for finding in found), found
    if expected:  # and no run starts with it
        with pytest.raises(LibraryError):
            resolve(library, ["animals", "species"], {})
    else:
        assert [one.name for one in resolve(library, ["species", "animals"], {})] == ["animals", "species"]


def test_options_are_checked_as_the_file_is_read(tmp_path: Path) -> None:
    wrong = options(units="metres", paddings=1, max_regions=0, field=None)
    (tmp_path / "species.json").write_text(json.dumps(SPECIES | wrong))
    with pytest.raises(LibraryError) as caught:
        load_library([tmp_path], tmp_path)
    found = {finding.field: (finding.message, finding.remedy) for finding in caught.value.findings}
    assert found.keys() == {"regions.units", "regions.paddings", "regions.max_regions", "regions.field"}
    assert found["regions.units"][1].startswith('Use one of "fraction"')
    assert found["regions.paddings"] == ("this regions option does not exist", 'Did you mean "padding"?')
    assert found["regions.field"][0] == '"field" is missing'


def test_the_pipeline_file_cannot_take_the_boxes_away() -> None:
    library = library_of(ANIMALS, SPECIES)
    with pytest.raises(SelectionError, match='has its regions from "animals", which is no input'):
        resolve(library, ["animals", "species"], {"species": []})


def test_the_context_template_is_about_the_row() -> None:
    fine = library_of(ANIMALS, SPECIES)
    assert lint(fine) == []
    (finding,) = lint(library_of(ANIMALS, SPECIES | {"context_template": "{species}"}))
    assert (finding.level, finding.field) == ("warning", "context_template")


def test_readers_are_told_of_fields_that_are_not_there() -> None:
    reader = {"name": "reader", "prompt": "{{ inputs.species.species }}", "schema_fields": [{"name": "a"}]}
    (finding,) = lint(library_of(ANIMALS, SPECIES, reader | {"inputs": ["species"], "module": "m"}))
    assert (finding.level, finding.field) == ("warning", "prompt")
    assert finding.message == 'the prompt reads inputs.species.species, but "species" has no such field'


def test_the_row_of_a_region_perspective() -> None:
    library = library_of(ANIMALS, SPECIES)
    form = output_form(library.perspectives["species"], library.perspectives)
    assert arrow_type(form) == pa.struct(
        [
            (
                "regions",
                pa.list_(
                    pa.struct(
                        [
                            ("index", pa.int64()),
                            ("box", pa.list_(pa.float64())),
                            ("box_pixels", pa.list_(pa.int64())),
                            ("label", pa.string()),
                            ("species", pa.string()),
                        ]
                    )
                ),
            ),
            ("outside", pa.int64()),
            ("over_limit", pa.int64()),
        ]
    )
    assert output_form(form, {}) == form
    assert output_form(library.perspectives["animals"], {}) is library.perspectives["animals"]
    region = {"index": 0, "box": [0.0, 0.1, 0.2, 0.3], "box_pixels": [0, 1, 2, 3], "label": "cat", "species": "lynx"}
    output = {"regions": [region], "outside": 1, "over_limit": 0}
    assert from_arrow_value(form, to_arrow_value(form, output)) == output
    assert render_context(form, output) == "lynx as cat"


def test_a_prompt_reads_the_region_and_the_boxes_are_not_appended() -> None:
    other = {"name": "weather", "prompt": "?", "schema_fields": [{"name": "sky"}]}
    library = library_of(ANIMALS, other, SPECIES | {"inputs": ["animals", "weather"]})
    *_, species = resolve(library, ["animals", "weather", "species"], {})
    inputs: dict[str, Any] = {"animals": {"animals": [], "count": 0, "places": []}, "weather": {"sky": "grey"}}
    text = render_prompt(species.perspective, inputs, {}, species.input_perspectives, {"label": "cat"})
    assert text == "Which species is the cat?\n\n## Weather\nsky: grey"


def test_what_decides_the_rows_counts_in_the_fingerprint() -> None:
    def parts(animals: dict[str, Any] = ANIMALS, **change: Any) -> dict[str, str]:
        *_, species = resolve(library_of(animals, SPECIES | change), ["animals", "species"], {})
        return fingerprint_parts(species, {"animals": "0" * 16}, {})

    for change in (options(padding=0.1), options(units="pixels"), options(min_pixels=1), options(max_regions=5)):
        assert parts(**change) != parts()
    assert parts(ANIMALS | {"context_template": "{count}", "display_name": "x"}) == parts(), "neither is read"
    assert parts(prompt="{{ context.animals }}") != parts(
        ANIMALS | {"context_template": "{count}"}, prompt="{{ context.animals }}"
    )


def test_regions_of_regions_take_our_boxes_as_they_are() -> None:
    detail = {
        "name": "detail",
        "prompt": "{{ region.species }}, {{ region.label }}",
        "module": "m",
        "schema_fields": [{"name": "colour"}],
        "scope": "region",
        "inputs": ["species"],
        "regions": {"input": "species", "field": "regions", "units": "fraction"},
    }
    library = library_of(ANIMALS, SPECIES, detail)
    assert lint(library) == []
    form = output_form(library.perspectives["detail"], library.perspectives)
    (regions, *_) = form.schema_fields
    assert [field.name for field in regions.fields or ()] == [
        "index", "box", "box_pixels", "label", "species", "colour",
    ]  # fmt: skip
    for change in ({"units": "percent"}, {"box": "box_pixels"}):
        wrong = detail | {"regions": detail["regions"] | change}  # type: ignore[operator]
        assert [finding.field for finding in lint(library_of(ANIMALS, SPECIES, wrong))] == ["regions"]


def test_a_cycle_is_found_and_not_followed() -> None:
    one = SPECIES | {"name": "one", "inputs": ["two"], "regions": OPTIONS | {"input": "two"}, "context_template": ""}
    two = SPECIES | {"name": "two", "inputs": ["one"], "regions": OPTIONS | {"input": "one"}, "context_template": ""}
    assert "inputs" in {finding.field for finding in lint(library_of(one, two))}
    with pytest.raises((SelectionError, LibraryError)):
        resolve(library_of(one, two), ["one", "two"], {})
    itself = SPECIES | {"inputs": ["species"], "regions": OPTIONS | {"input": "species"}}
    assert "inputs" in {finding.field for finding in lint(library_of(itself))}
    with pytest.raises((SelectionError, LibraryError)):
        resolve(library_of(itself), ["species"], {})
