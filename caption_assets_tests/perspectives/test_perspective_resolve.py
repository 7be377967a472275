"""Selecting perspectives: order, inputs, and errors that name a remedy."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from caption_assets.perspectives import (
    Library,
    LibraryError,
    Perspective,
    ResolvedPerspective,
    SelectionError,
    resolve,
)


def library_of(**files: dict[str, Any]) -> Library:
    defaults = {"prompt": "Describe it.", "schema_fields": [{"name": "caption"}], "module": "m"}
    perspectives = {name: Perspective.model_validate(defaults | {"name": name} | file) for name, file in files.items()}
    return Library(perspectives, {})


def inputs_of(resolved: Sequence[ResolvedPerspective]) -> Mapping[str, tuple[str, ...]]:
    return {one.name: one.inputs for one in resolved}


SYNTHESIZER: dict[str, Any] = {"type": "synthesizer"}


def test_order_is_by_inputs_then_priority_then_name() -> None:
    library = library_of(
        late={"priority": 200},
        b={"priority": 5},
        a={"priority": 5},
        top={"inputs": ["late"], "priority": 0},
        s=SYNTHESIZER,
    )
    resolved = resolve(library, ["s", "top", "late", "b", "a"], {})
    assert [one.name for one in resolved] == ["a", "b", "late", "top", "s"]
    assert [one.depth for one in resolved] == [0, 0, 0, 1, 2]
    assert resolved == resolve(library, ["a", "b", "late", "top", "s"], {})
    assert dict(resolved[3].input_perspectives) == {"late": library.perspectives["late"]}


def test_a_synthesizer_reads_everything_enabled_that_is_no_synthesizer() -> None:
    library = library_of(a={}, b={}, c={}, s=SYNTHESIZER, t=SYNTHESIZER)
    assert inputs_of(resolve(library, ["a", "b", "s", "t"], {}))["s"] == ("a", "b")


def test_what_reads_a_synthesizer_is_not_read_by_it() -> None:
    library = library_of(a={}, s=SYNTHESIZER, t=SYNTHESIZER, after={"inputs": ["s"]}, later={"inputs": ["after"]})
    resolved = resolve(library, ["later", "after", "s", "t", "a"], {})
    assert inputs_of(resolved) == {"a": (), "s": ("a",), "t": ("a",), "after": ("s",), "later": ("after",)}
    assert {one.name: one.depth for one in resolved} == {"a": 0, "s": 1, "t": 1, "after": 2, "later": 3}


def test_the_pipeline_file_overrides_the_perspectives_inputs() -> None:
    library = library_of(a={}, b={}, c={"inputs": ["a"]}, s=SYNTHESIZER)
    resolved = resolve(library, ["a", "b", "c", "s"], {"c": ["b", "b"], "s": ["c", "a"]})
    assert inputs_of(resolved) == {"a": (), "b": (), "c": ("b",), "s": ("c", "a")}


def test_an_enabled_name_may_stand_twice() -> None:
    assert [one.name for one in resolve(library_of(a={}), ["a", "a"], {})] == ["a"]


@pytest.mark.parametrize(
    ("enabled", "inputs", "name", "words"),
    [
        (["art_critik"], {}, "art_critik", ['There is no perspective "art_critik"', 'Did you mean "art_critic"?']),
        (["reader"], {}, "reader", ["not enabled", 'Enable "art_critic"', "perspectives.inputs.reader"]),
        (["art_critic"], {"reader": ["art_critic"]}, "reader", ["which is not enabled", 'Enable "reader"']),
        (["art_critic"], {"art_critic": ["redaer"]}, "art_critic", ["does not exist", 'Did you mean "reader"?']),
        (["art_critic", "reader"], {"art_critic": ["reader"]}, "art_critic", ["cycle", "art_critic reads reader"]),
        (["art_critic"], {"art_critic": ["art_critic"]}, "art_critic", ["cycle"]),
        (["s"], {}, "s", ["nothing to read"]),
        (["quotes", "art_critic", "reader"], {"quotes": ["art_critic"]}, "quotes", ['reads "reader"', "no input"]),
    ],
)
def test_selection_errors(enabled: list[str], inputs: dict[str, list[str]], name: str, words: list[str]) -> None:
    library = library_of(
        art_critic={},
        reader={"inputs": ["art_critic"]},
        s=SYNTHESIZER,
        quotes={"prompt": "{{ context.reader }}", "inputs": ["reader"]},
    )
    with pytest.raises(SelectionError) as caught:
        resolve(library, enabled, inputs)
    assert caught.value.name == name
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.remedy


def test_an_enabled_perspective_with_errors_is_refused_and_a_disabled_one_is_not() -> None:
    broken = {"schema_fields": [{"name": "a", "type": "int", "minimum": 2, "maximum": 1}]}
    library = library_of(good={}, broken=broken, region={"scope": "region"})
    with pytest.raises(LibraryError, match="minimum 2 is above maximum 1"):
        resolve(library, ["good", "broken"], {})
    with pytest.raises(LibraryError, match="where the boxes come from"):
        resolve(library, ["region"], {})
    assert [one.name for one in resolve(library, ["good"], {})] == ["good"]
