"""Prompts and contexts: what a model is asked, to the letter."""

from typing import Any

import pytest

from caption_assets.perspectives import (
    Perspective,
    PromptError,
    describe_schema,
    render_context,
    render_prompt,
    source_columns,
)


def perspective(prompt: str = "Describe it.", **changes: Any) -> Perspective:
    defaults = {"name": "x", "schema_fields": [{"name": "caption"}], "describe_schema": False}
    return Perspective.model_validate(defaults | {"prompt": prompt} | changes)


NOTES = perspective(
    name="notes",
    display_name="Field notes",
    schema_fields=[
        {"name": "caption"},
        {"name": "items", "is_list": True},
        {"name": "sure", "type": "bool"},
        {"name": "spot", "fields": [{"name": "x", "type": "int"}, {"name": "label"}]},
        {"name": "parts", "is_list": True, "fields": [{"name": "label"}, {"name": "size", "optional": True}]},
        {"name": "extra", "optional": True},
    ],
    context_template=(
        "{caption} [{items}] {sure} {spot} {spot.x} {parts.label}|{parts.size} {extra}{nothing}{spot.nothing}."
    ),
)
OUTPUT: dict[str, Any] = {
    "caption": "A {items} dog, {{ 7*7 }}",
    "items": ["Zweig", "Ähre"],
    "sure": True,
    "spot": {"x": 3, "label": "ö"},
    "parts": [{"label": "ear", "size": "big"}, {"label": "tail"}],
}
CONTEXT = 'A {items} dog, {{ 7*7 }} [Zweig, Ähre] true {"x":3,"label":"ö"} 3 ear, tail|big .'


def ask(prompt: str, source: dict[str, Any] | None = None, **changes: Any) -> str:
    return render_prompt(perspective(prompt, **changes), {"notes": OUTPUT}, source or {}, {"notes": NOTES})


def test_contexts_replace_placeholders_once() -> None:
    assert render_context(NOTES, OUTPUT) == CONTEXT


def test_a_context_without_template_lists_the_fields() -> None:
    plain = NOTES.model_copy(update={"context_template": ""})
    assert render_context(plain, {"caption": "A dog", "items": ["a"], "sure": False}) == (
        "caption: A dog\nitems: a\nsure: false"
    )


def test_contexts_do_not_reach_into_objects() -> None:
    attack = NOTES.model_copy(
        update={"context_template": "{caption.__class__}{caption.__class__.__mro__}{0}{caption!r}"}
    )
    assert render_context(attack, OUTPUT) == "{0}{caption!r}"


def test_a_template_reads_inputs_contexts_and_source_columns() -> None:
    prompt = "{{ context.notes }} / {{ inputs.notes.items }} / {{ inputs['notes']['parts'] }} / {{ source.title }}"
    assert ask(prompt, {"title": "{{ 1 }}"}) == (
        f'{CONTEXT} / Zweig, Ähre / [{{"label":"ear","size":"big"}},{{"label":"tail"}}] / {{{{ 1 }}}}'
    )


def test_values_in_templates_are_shown_as_in_contexts() -> None:
    assert ask("{{ inputs.notes.sure }} {{ source.none }} {{ inputs.notes.spot | tojson }}", {"none": None}) == (
        'true  {"x":3,"label":"ö"}'
    )


def test_a_field_named_like_a_method_of_dict_is_the_field() -> None:
    assert ask("{% for item in inputs.notes.items %}<{{ item }}>{% endfor %}") == "<Zweig><Ähre>"
    assert ask("{% for name, text in context.items() %}{{ name }}{% endfor %}") == "notes"


def test_optional_columns_can_be_asked_for() -> None:
    prompt = "A{% if source.title is defined %} {{ source.title }}{% endif %}{{ source.by | default('!') }}"
    assert render_prompt(perspective(prompt), {}, {}, {}) == "A!"
    assert render_prompt(perspective(prompt), {}, {"title": "b", "by": "c"}, {}) == "A bc"


def test_the_template_s_result_is_kept_to_the_letter() -> None:
    assert render_prompt(perspective("\n {{ source.a }} \n\n"), {}, {"a": "x"}, {}) == "\n x \n\n"
    assert render_prompt(perspective("{json}\n"), {}, {}, {}) == "{json}\n"


def test_contexts_that_a_prompt_does_not_read_are_appended_in_the_order_of_names() -> None:
    other = NOTES.model_copy(update={"name": "a_view", "display_name": "A view", "context_template": "{caption}"})
    known = {"notes": NOTES, "a_view": other}
    expected = f"In this context. ok\n\n## A view\nx\n\n## Field notes\n{CONTEXT}"
    for inputs in ({"notes": OUTPUT, "a_view": {"caption": "x"}}, {"a_view": {"caption": "x"}, "notes": OUTPUT}):
        assert render_prompt(perspective("In this context. ok\n"), inputs, {}, known) == expected
        assert render_prompt(perspective("In this context. {{ source.a }}"), inputs, {"a": "ok"}, known) == expected
    assert "##" not in ask("{{ context.notes }}")


def test_the_schema_is_described_after_everything_else() -> None:
    text = ask("Sum up.", describe_schema=True)
    assert text.startswith("Sum up.\n\n## Field notes\n")
    assert text.endswith("\n- caption (text)")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{{ context.other }}", "'other'"),
        ("{{ inputs.notes.nothing }}", "'nothing'"),
        ("{{ source.title }}", "source columns: none"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ source.title", "no valid template"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
    ],
)
def test_a_prompt_that_cannot_be_rendered_fails_with_a_reason(prompt: str, words: str) -> None:
    with pytest.raises(PromptError, match=r"^x: ") as caught:
        ask(prompt)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ source.__class__ }}",
        "{{ inputs.notes['__class__'] }}",
        "{{ context.notes.__init__.__globals__ }}",
        "{{ ''['__cl' ~ 'ass__'] }}",
        "{{ '{0.__class__}'.format(source) }}",
        "{{ source|attr('__class__') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ inputs.update({'a': 1}) }}",
        "{{ inputs.notes.items.append(1) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in context.notes %}" * 6 + "{% endfor %}" * 6,
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{{ '{:>999999999}'.format('a') }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a'.zfill(999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 'a' | indent(width=999999999, first=true) }}",
        "{{ range(99999) | join('x' | center(9999)) }}",
        "{{ ('a' | center(9999)) | replace(' ', 'b' | center(9999)) }}",
        "{{ ('a' | center(9999)).replace(' ', 'b' | center(9999)) }}",
        "{{ lipsum(n=99999) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(PromptError):
        ask(attack)
    assert "a" not in OUTPUT
    assert OUTPUT["items"] == ["Zweig", "Ähre"]


def test_what_prompts_usually_do_is_within_the_bounds() -> None:
    prompt = (
        "{% for part in inputs.notes.parts %}{{ loop.index }}/{{ loop.length }} {{ part.label | upper }}"
        "{{ ', ' if not loop.last }}{% endfor %} {{ source.tags.split(',') | join(' and ') }} "
        "{{ source.tags | replace('a', 'o') | truncate(20) }} {{ 'x' ~ 1 ~ 'y' + 'z' }} {{ 1 + 2 }}"
        "{% for n in range(3) if n != 1 %}{{ n }}{% else %}none{% endfor %} {{ source.tags | indent(2) }}"
    )
    assert ask(prompt, {"tags": "cat,mat"}) == "1/2 EAR, 2/2 TAIL cat and mat cot,mot x1yz 302 cat,mat"


def test_an_input_without_perspective_is_an_error() -> None:
    with pytest.raises(PromptError, match="notes is no known perspective"):
        render_prompt(perspective(), {"notes": OUTPUT}, {}, {})


def test_source_columns_are_known_beforehand() -> None:
    assert source_columns(perspective("{{ source.a }}{% if source['b c'] %}{% endif %}{{ source.a }}")) == ("a", "b c")
    assert source_columns(perspective("No {source.a} here")) == ()


def test_the_description_names_types_bounds_and_nesting() -> None:
    described = describe_schema(
        perspective(
            schema_fields=[
                {"name": "caption", "description": "One\n sentence.", "max_length": 90},
                {"name": "code", "min_length": 7, "max_length": 7},
                {"name": "kind", "enum": ["a", "b"], "optional": True},
                {"name": "score", "type": "float", "minimum": 0, "maximum": 1},
                {"name": "years", "type": "int", "is_list": True, "minimum": 1900, "max_items": 3},
                {"name": "ok", "type": "bool"},
                {"name": "more", "type": "dict"},
                {
                    "name": "parts",
                    "is_list": True,
                    "min_items": 1,
                    "max_items": 4,
                    "fields": [
                        {"name": "label", "min_length": 1},
                        {"name": "box", "fields": [{"name": "x", "type": "int"}]},
                    ],
                },
            ]
        )
    )
    assert described.splitlines()[1:] == [
        "- caption (text, at most 90 characters): One sentence.",
        "- code (text, exactly 7 characters)",
        '- kind (text, one of "a", "b", may be left out)',
        "- score (number, 0 to 1)",
        "- years (list of up to 3 whole numbers, each at least 1900)",
        "- ok (true or false)",
        "- more (JSON object)",
        "- parts (list of 1 to 4 objects with these fields)",
        "  - label (text, not empty)",
        "  - box (object with these fields)",
        "    - x (whole number)",
    ]
