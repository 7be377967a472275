"""Loading libraries: files in graphcap's format, defects, overrides, comments, new files."""

import json
from pathlib import Path
from typing import Any

import pytest

from caption_assets.perspectives import (
    LibraryError,
    describe_schema,
    json_schema,
    lint,
    load_library,
    render_prompt,
    write_new_perspective,
)
from caption_assets.perspectives.jsonc import strip_comments

GRAPHCAP_FORMAT = Path(__file__).parent / "graphcap_format"
FIELDS = [{"name": "caption", "type": "str", "description": "A sentence."}]


def write(folder: Path, file: str, **content: Any) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prompt": "Describe it.", "schema_fields": FIELDS, "module": "m"} | content))
    return path


def errors_of(folder: Path) -> dict[str, str]:
    """Load a folder that must fail; return remedies by field."""
    with pytest.raises(LibraryError) as caught:
        load_library([folder], folder)
    assert all(finding.level == "error" and finding.file is not None for finding in caught.value.findings)
    return {finding.field: finding.remedy for finding in caught.value.findings}


def test_files_in_graphcaps_format_load_unchanged() -> None:
    library = load_library([GRAPHCAP_FORMAT], Path())
    assert set(library.perspectives) == {"street_view", "weighted_tags", "merged_view", "moment_tags"}
    assert library.perspectives["weighted_tags"].version == "2"
    assert library.perspectives["moment_tags"].module == "niche"
    assert library.perspectives["moment_tags"].priority == 100
    assert library.files["street_view"] == GRAPHCAP_FORMAT / "core" / "street_view.json"


def test_lint_reports_the_defects_of_these_files_and_nothing_else() -> None:
    findings = lint(load_library([GRAPHCAP_FORMAT], Path()))
    assert {(finding.level, finding.file.name if finding.file else "", finding.field) for finding in findings} == {
        ("note", "street_view.json", "prompt"),  # {lamps}, {json}: plain text
        ("note", "moment_tags.json", "module"),
        ("warning", "moment_tags.json", "author"),
        ("warning", "moment_tags.json", "context_template"),
    }
    placeholder = next(finding for finding in findings if finding.field == "context_template")
    assert "{temporal_caption}" in placeholder.message
    assert "moment_caption" in placeholder.remedy
    assert str(placeholder).startswith("warning: ")
    assert "moment_tags.json: context_template: " in str(placeholder)


def test_a_prompt_with_single_braces_is_used_verbatim() -> None:
    perspective = load_library([GRAPHCAP_FORMAT], Path()).perspectives["street_view"]
    assert perspective.prompt.endswith("Answer as {json}.\n")
    rendered = render_prompt(perspective, {}, {}, {})
    assert rendered.startswith(perspective.prompt.rstrip("\n"))
    plain = perspective.model_copy(update={"describe_schema": False})
    assert render_prompt(plain, {}, {}, {}) == perspective.prompt


def test_nested_fields_become_objects_whatever_their_type_says() -> None:
    perspective = load_library([GRAPHCAP_FORMAT], Path()).perspectives["weighted_tags"]
    properties = json_schema(perspective)["properties"]
    assert properties["tags"]["items"]["required"] == ["tag", "weight"]
    assert properties["tags"]["items"]["additionalProperties"] is False
    assert properties["origin"]["properties"]["sure"] == {"type": "boolean"}
    assert properties["extras"] == {"type": "object", "additionalProperties": True}
    assert "  - weight (number): From 0 to 1." in describe_schema(perspective)


def test_every_error_of_a_library_is_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.json", name="Not A Name", prompt=3, priority="high", inputs="x", image="yes", scope="pixel")
    write(tmp_path, "b.json", name="b", schema_fields=[{"name": "1st"}, {"name": "x", "type": "string"}, {}])
    write(tmp_path, "c.json", name="c", sampling={"temprature": 1, "max_tokens": 0})
    (tmp_path / "d.json").write_text('{"name": "d",}')
    (tmp_path / "e.json").write_text("[]")
    (tmp_path / "f.json").write_bytes(b'{"name": "\xff"}')
    (tmp_path / "g.json").write_text('{"priority": NaN}')
    (tmp_path / "h.json").write_text('{"prompt": "\\ud800"}')
    (tmp_path / "i.json").write_text('{"a": ' * 100_000)
    with pytest.raises(LibraryError) as caught:
        load_library([tmp_path, "missing"], tmp_path)
    found = {(finding.file.name if finding.file else "", finding.field) for finding in caught.value.findings}
    assert found == {
        *(("a.json", field) for field in ("name", "prompt", "priority", "inputs", "image", "scope")),
        ("b.json", "schema_fields[0].name"),
        ("b.json", "schema_fields[1].type"),
        ("b.json", "schema_fields[2].name"),
        ("c.json", "sampling.temprature"),
        ("c.json", "sampling.max_tokens"),
        *((file, "") for file in ("d.json", "e.json", "f.json", "g.json", "h.json", "i.json", "missing")),
    }
    assert all(finding.remedy for finding in caught.value.findings)
    assert "sampling.temprature" in str(caught.value)


def test_errors_name_a_remedy(tmp_path: Path) -> None:
    write(tmp_path, "a.json", name="a", schema_fields=[{"name": "x", "type": "string"}], sampling={"temprature": 1})
    remedies = errors_of(tmp_path)
    assert '"str"' in remedies["schema_fields[0].type"]
    assert "temperature" in remedies["sampling.temprature"]


def test_an_unknown_key_is_a_warning_with_the_closest_known_key(tmp_path: Path) -> None:
    fields = [{"name": "caption", "max_lenght": 3, "fields": [{"name": "a", "enums": []}]}]
    write(tmp_path, "a.json", name="a", promt="x", schema_fields=fields, **{"$schema": "x"})
    findings = lint(load_library([tmp_path], tmp_path))
    assert {finding.field: finding.remedy for finding in findings} == {
        "promt": 'Did you mean "prompt"?',
        "schema_fields[0].max_lenght": 'Did you mean "max_length" or "min_length"?',
        "schema_fields[0].fields[0].enums": 'Did you mean "enum"?',
    }
    assert {finding.level for finding in findings} == {"warning"}


def test_a_key_that_stands_twice_is_a_warning(tmp_path: Path) -> None:
    text = json.dumps({"name": "a", "module": "m", "schema_fields": FIELDS})
    (tmp_path / "a.json").write_text(text[:-1] + ', "prompt": "one", "prompt": "two"}')
    library = load_library([tmp_path], tmp_path)
    assert library.perspectives["a"].prompt == "two"
    assert [(finding.level, finding.field) for finding in lint(library)] == [("warning", "prompt")]


def test_a_later_entry_overrides_an_earlier_one_with_a_note(tmp_path: Path) -> None:
    ours = write(tmp_path / "ours", "deep/art_critic.json", name="art_critic", prompt="Ours.")
    library = load_library(["builtin", "ours", "ours"], tmp_path)
    assert library.perspectives["art_critic"].prompt == "Ours."
    assert library.files["art_critic"] == ours
    assert len(library.notes) == 1
    assert str(ours) in library.notes[0]
    assert library.notes[0].startswith("art_critic: ")


def test_the_same_name_twice_within_an_entry_is_an_error(tmp_path: Path) -> None:
    first = write(tmp_path, "a/x.json", name="x")
    write(tmp_path, "b/x.json", name="x")
    with pytest.raises(LibraryError) as caught:
        load_library([tmp_path], tmp_path)
    (finding,) = caught.value.findings
    assert finding.file == tmp_path / "b" / "x.json"
    assert str(first) in finding.message


def test_hidden_folders_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "x.json", name="x")
    write(tmp_path, ".ipynb_checkpoints/x-checkpoint.json", name="x")
    (tmp_path / "README.md").write_text("Not a perspective.")
    assert set(load_library([tmp_path], tmp_path).perspectives) == {"x"}


def test_null_means_unset(tmp_path: Path) -> None:
    write(tmp_path, "x.json", name="x", tags=None, sampling=None, image=None, display_name=None)
    perspective = load_library([tmp_path], tmp_path).perspectives["x"]
    assert (perspective.tags, perspective.image, perspective.display_name) == ((), True, "X")


def test_comments_are_for_jsonc_only(tmp_path: Path) -> None:
    text = '// https://example.org\n{"name": "x", // "y"\n "prompt": "See http://a \\" // b", "module": "m",\n'
    text += f'"schema_fields": {json.dumps(FIELDS)}}}'
    (tmp_path / "x.jsonc").write_text(text)
    assert load_library([tmp_path], tmp_path).perspectives["x"].prompt == 'See http://a " // b'
    (tmp_path / "x.jsonc").rename(tmp_path / "x.json")
    assert ".jsonc" in errors_of(tmp_path)[""]


def test_stripping_comments_keeps_lines() -> None:
    assert strip_comments('{ // a\n"b": "//c" }//') == '{ \n"b": "//c" }'
    assert strip_comments('"unfinished // \n//x\n1') == '"unfinished \n\n1'


def test_a_new_perspective_loads_and_lints_clean(tmp_path: Path) -> None:
    (path,) = write_new_perspective("my_view", tmp_path / "mine")
    assert path == tmp_path / "mine" / "my_view.jsonc"
    library = load_library(["mine"], tmp_path)
    assert lint(library) == []
    assert set(library.perspectives) == {"my_view"}
    assert library.perspectives["my_view"].display_name == "My view"
    assert path.read_text().lstrip().startswith("//")


def test_a_new_perspective_overwrites_nothing(tmp_path: Path) -> None:
    (path,) = write_new_perspective("mine", tmp_path)
    path.write_text("kept")
    with pytest.raises(FileExistsError, match=r"mine\.jsonc"):
        write_new_perspective("mine", tmp_path)
    assert path.read_text() == "kept"
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"other\.json"):
        write_new_perspective("other", tmp_path)


@pytest.mark.parametrize("name", ["", "My", "1st", "a-b", "../x", "a" * 65, "a\n"])
def test_a_new_perspective_needs_a_valid_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        write_new_perspective(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
