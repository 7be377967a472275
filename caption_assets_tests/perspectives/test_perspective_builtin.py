"""The builtin library: complete, clean, usable by a grammar compiler, and rendered without a trace of a template."""

import json
from pathlib import Path
from typing import Any

import pytest

from caption_assets.perspectives import (
    Perspective,
    SchemaField,
    guided_schema,
    lint,
    load_library,
    render_context,
    render_prompt,
    resolve,
    to_arrow_value,
    validate_output,
)

LIBRARY = load_library(["builtin"], Path())
MODULES = {
    "core": {"simple_caption", "graph_caption", "locality_graph", "art_critic", "style_preset", "synthesized_caption"},
    "creative": {"storytelling", "poetic_metaphor", "out_of_frame", "temporarium"},
    "tags": {"emotional_sentiment", "time_tags", "custom_caption"},
    "video": {"i2v_scene", "i2v_motion", "i2v_camera", "i2v_temporal_arc", "i2v_prompt"},
}
NAMES = sorted(LIBRARY.perspectives)


def example(fields: tuple[SchemaField, ...]) -> dict[str, Any]:
    """Make up a valid output, with a quotation in every text that has room for it."""

    def item(field: SchemaField, index: int) -> Any:
        if field.fields is not None:
            return example(field.fields)
        if field.enum is not None:
            return field.enum[index % len(field.enum)]
        if field.type == "str":
            text = f'A "sign" no. {index} über {field.name}, seen from afar at dusk by the river as others left'
            wanted = max(field.min_length or 0, 30)
            return (text * (wanted // len(text) + 1))[: min(wanted, field.max_length or wanted)]
        return {"int": field.maximum, "float": field.minimum, "bool": True, "dict": {}}[field.type]

    def value(field: SchemaField) -> Any:
        if not field.is_list:
            return item(field, 0)
        return [item(field, index) for index in range(max(field.min_items or 0, min(2, field.max_items or 2)))]

    return {field.name: value(field) for field in fields}


def test_the_library_is_complete() -> None:
    found: dict[str, set[str]] = {}
    for name, perspective in LIBRARY.perspectives.items():
        found.setdefault(perspective.module, set()).add(name)
        assert LIBRARY.files[name].parent.name == perspective.module
        assert LIBRARY.files[name].stem == name
    assert found == MODULES
    assert len(NAMES) == 18


def test_the_library_lints_with_no_finding() -> None:
    assert [str(finding) for finding in lint(LIBRARY)] == []
    assert LIBRARY.notes == []


@pytest.mark.parametrize("name", NAMES)
def test_a_perspective_is_fully_described_and_bounded(name: str) -> None:
    perspective = LIBRARY.perspectives[name]
    assert perspective.description
    assert perspective.tags
    assert perspective.context_template
    assert perspective.table_columns
    for path, field in perspective.walk_fields():
        assert field.description, path
        if field.type == "str" and not field.is_object and field.enum is None:
            assert field.max_length, path
        if field.type in ("int", "float"):
            assert field.minimum is not None, path
            assert field.maximum is not None, path
        if field.is_list:
            assert field.max_items, path


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_validation_and_reads_well_in_a_context(name: str) -> None:
    perspective = LIBRARY.perspectives[name]
    output = example(perspective.schema_fields)
    assert validate_output(perspective, json.dumps(output)) == output
    to_arrow_value(perspective, output)
    context = render_context(perspective, output)
    assert "{" not in context.replace("{}", "")
    assert len(context) > 10


def test_all_of_it_can_run_together() -> None:
    resolved = resolve(LIBRARY, NAMES, {})
    outputs = {name: example(one.schema_fields) for name, one in LIBRARY.perspectives.items()}
    for one in resolved:
        inputs = {name: outputs[name] for name in one.inputs}
        prompt = render_prompt(one.perspective, inputs, {"instructions": "Use one word."}, one.input_perspectives)
        assert "{{" not in prompt
        assert "{%" not in prompt
        for name in one.inputs:
            assert render_context(LIBRARY.perspectives[name], outputs[name]) in prompt
    assert {one.name: one.depth for one in resolved if one.depth} == {"synthesized_caption": 1, "i2v_prompt": 1}
    assert "i2v_prompt" not in resolved[-2].inputs


def test_custom_instructions_are_optional() -> None:
    perspective = LIBRARY.perspectives["custom_caption"]
    assert "instructions" not in render_prompt(perspective, {}, {}, {}).split("\n\nAnswer with")[0]
    assert "Use one word." in render_prompt(perspective, {}, {"instructions": "Use one word."}, {})


# --- Against the grammar compiler that vLLM uses --------------------------------------------------------------------


class Grammars:
    """Compiles schemas for a vocabulary of single bytes, as an engine does, and says what a model could write."""

    def __init__(self) -> None:
        self.xgrammar = pytest.importorskip("xgrammar")
        vocabulary = [bytes([value]) for value in range(256)] + [b"</s>"]
        information = self.xgrammar.TokenizerInfo(
            vocabulary, vocab_type=self.xgrammar.VocabType.RAW, stop_token_ids=[len(vocabulary) - 1]
        )
        self.compiler = self.xgrammar.GrammarCompiler(information, max_threads=1)

    def accepts(self, perspective: Perspective, output: dict[str, Any]) -> bool:
        schema = json.dumps(guided_schema(perspective))
        grammar = self.compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
        matcher = self.xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True)
        text = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
        return bool(matcher.accept_string(text) and matcher.is_terminated())


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars()


@pytest.mark.parametrize("name", NAMES)
def test_the_grammar_lets_a_model_write_an_example_with_quotations(name: str, grammars: Grammars) -> None:
    perspective = LIBRARY.perspectives[name]
    output = example(perspective.schema_fields)
    assert grammars.accepts(perspective, output)


def test_the_grammar_enforces_nested_fields_and_their_bounds(grammars: Grammars) -> None:
    perspective = LIBRARY.perspectives["graph_caption"]
    output = example(perspective.schema_fields)
    tags = output["tags"]
    assert not grammars.accepts(perspective, output | {"tags": [tag["tag"] for tag in tags]})
    assert not grammars.accepts(perspective, output | {"tags": tags[:2]})
    assert not grammars.accepts(perspective, output | {"tags": [tag | {"confidence": 1.5} for tag in tags]})
    assert not grammars.accepts(perspective, output | {"tags": [tag | {"category": "other"} for tag in tags]})
    assert not grammars.accepts(perspective, output | {"more": 1})


def test_vllm_takes_the_schemas_for_supported() -> None:
    backend = pytest.importorskip("vllm.v1.structured_output.backend_xgrammar")
    for perspective in LIBRARY.perspectives.values():
        assert not backend.has_xgrammar_unsupported_json_features(guided_schema(perspective))
