"""Perspectives on regions of a picture: what their rows look like, and what can be wrong with them before a run.

Such a perspective answers its own schema once a region, and its row is one a picture:

    {"regions": [{index, box, box_pixels, <what the input said of it>, <what this perspective says>}],
     "outside": 0, "over_limit": 0}

`index` counts the input's boxes from 0. `box` is x0, y0, x1, y1 in fractions of the picture's width and height,
`box_pixels` the same in whole pixels of the upright original. `outside` counts boxes that have no part in the picture,
`over_limit` those after the first `max_regions` others: neither is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from jinja2 import TemplateSyntaxError

from caption_assets.perspectives.findings import Finding, quote, suggestion
from caption_assets.perspectives.model import Perspective, Regions, SchemaField
from caption_assets.perspectives.template import template_names

_OWN_FIELDS = (
    SchemaField(name="index", type="int", description="Which of the input's boxes it is, from 0."),
    SchemaField(name="box", type="float", is_list=True, description="x0, y0, x1, y1 in fractions of the picture."),
    SchemaField(name="box_pixels", type="int", is_list=True, description="The same in pixels of the original."),
)
_COUNTS = (
    SchemaField(name="outside", type="int", description="Boxes outside the picture, which were not looked at."),
    SchemaField(name="over_limit", type="int", description="Boxes beyond max_regions, which were not looked at."),
)
_EXAMPLE = '{"input": "scene_objects", "field": "objects", "units": "percent"}'


def output_form(perspective: Perspective, perspectives: Mapping[str, Perspective]) -> Perspective:
    """The perspective as its stored outputs look: itself, or, on regions, with the fields of its row.

    Args:
        perspective: any perspective.
        perspectives: at least the perspective that has the boxes, by name; where it is missing or has no such list,
            the regions hold just their boxes and the perspective's own fields.
    """
    if perspective.scope != "region":
        return perspective
    region = SchemaField(
        name="regions",
        type="dict",
        is_list=True,
        description="What was looked at, in the order of the input.",
        fields=(*region_fields(perspective, perspectives), *perspective.schema_fields),
    )
    changed = {"scope": "image", "regions": None, "schema_fields": (region, *_COUNTS)}
    return perspective.model_copy(update=changed)


def region_fields(perspective: Perspective, perspectives: Mapping[str, Perspective]) -> tuple[SchemaField, ...]:
    """What is known of a region before it is looked at, and what a prompt may read as `region.<field>`.

    These are index, box and box_pixels, and the fields of the input's objects, their own box aside.
    """
    options = perspective.regions
    found = _found(perspective, perspectives)
    known = {*(field.name for field in _OWN_FIELDS), options.box if options else ""}
    return (*_OWN_FIELDS, *(field for field in found if field.name not in known))


def _found(perspective: Perspective, perspectives: Mapping[str, Perspective]) -> Sequence[SchemaField]:
    """The fields of the input's objects with boxes; none where there is no such input."""
    options = perspective.regions
    input_ = perspectives.get(options.input) if options else None
    if options is None or input_ is None:
        return ()
    others = {name: each for name, each in perspectives.items() if name != perspective.name}  # a cycle has an end
    fields = output_form(input_, others).schema_fields
    return next((field.fields or () for field in fields if field.name == options.field and field.is_list), ())


# --- The lint -------------------------------------------------------------------------------------------------------


def lint_scope(perspective: Perspective) -> Iterator[Finding]:
    """What is wrong with a perspective's scope and regions that shows without any other perspective."""
    options = perspective.regions
    if perspective.scope != "region":
        if options is not None:
            message = "regions are given, but the perspective looks at the whole picture"
            yield _error("regions", message, 'Add "scope": "region", or delete regions.')
        return
    if not perspective.image:
        message = "the perspective is on regions of the picture, but does not see it"
        yield _error("image", message, 'Set "image": true, or "scope": "image".')
    if options is None:
        remedy = f'Add "regions", such as {_EXAMPLE}.'
        yield _error("regions", "it is not said where the boxes come from", remedy)
        return
    if options.input not in (perspective.inputs or ()):
        message = f"the boxes come from {quote(options.input)}, which is no declared input"
        yield _error("regions.input", message, f'Add {quote(options.input)} to "inputs".')
    yield from _taken(perspective, [field.name for field in _OWN_FIELDS], "every region has")


def lint_boxes(perspective: Perspective, perspectives: Mapping[str, Perspective]) -> Iterator[Finding]:
    """Whether a perspective's input has the boxes that it is said to have. An input that is unknown is not told."""
    options = perspective.regions
    if perspective.scope != "region" or options is None or options.input not in perspectives:
        return
    others = {name: each for name, each in perspectives.items() if name != perspective.name}
    if options.input not in others:
        return  # it reads itself: a cycle
    fields = {field.name: field for field in output_form(others[options.input], others).schema_fields}
    what = f"{options.input}.{options.field}"
    field = fields.get(options.field)
    if field is None:
        message = f"{quote(options.input)} has no field {quote(options.field)}"
        yield _error("regions.field", message, suggestion(options.field, fields, "It has"))
        return
    if not field.is_list or field.fields is None:
        message = f"{quote(what)} is no list of objects"
        yield _error("regions.field", message, 'Name a field with "is_list": true and "fields", one of them the box.')
        return
    yield from _lint_box(options, field.fields, ours=others[options.input].scope == "region")
    known = [each.name for each in region_fields(perspective, perspectives)]
    yield from _taken(perspective, known[len(_OWN_FIELDS) :], f"the objects of {quote(what)} have")
    for name in _read_of_region(perspective):
        if name not in known:
            message = f"the prompt reads region.{name}, which no region has"
            yield _error("prompt", message, suggestion(name, known, "A region has"))


def _lint_box(options: Regions, fields: Sequence[SchemaField], *, ours: bool) -> Iterator[Finding]:
    """The field of the boxes; `ours`: the input is on regions itself, so that the boxes are of our own making."""
    if ours:
        if (options.box, options.units, options.order) != ("box", "fraction", "xyxy"):
            message = f"{quote(options.input)} is on regions itself: its boxes are fractions of the picture"
            yield _error("regions", message, 'Write "box": "box", "units": "fraction", "order": "xyxy".')
        return
    what = f"{options.input}.{options.field}"
    inner = {each.name: each for each in fields}
    box = inner.get(options.box)
    if box is None:
        message = f"the objects of {quote(what)} have no field {quote(options.box)}"
        yield _error("regions.box", message, suggestion(options.box, inner, "They have"))
    elif not _is_box(box):
        message = f"{quote(f'{what}.{options.box}')} is no list of exactly four numbers that is always there"
        remedy = (
            f'In {options.input}, give it "type": "float" or "int", "is_list": true, "min_items": 4, "max_items": 4.'
        )
        yield _error("regions.box", message, remedy)


def _read_of_region(perspective: Perspective) -> tuple[str, ...]:
    try:
        return template_names(perspective.prompt).region
    except TemplateSyntaxError:  # reported with the prompt
        return ()


def _is_box(field: SchemaField) -> bool:
    numbers = field.type in ("int", "float") and field.fields is None and field.is_list
    return numbers and field.min_items == field.max_items == 4 and not field.optional


def _taken(perspective: Perspective, names: Collection[str], who: str) -> Iterator[Finding]:
    """Fields of a perspective that would stand twice in a region's row; SQL does not tell case apart."""
    lower = {name.lower() for name in names}
    for index, field in enumerate(perspective.schema_fields):
        if field.name.lower() in lower:
            message = f"{who} a field {quote(field.name)} already, which stands beside this one in a row"
            yield _error(f"schema_fields[{index}].name", message, "Rename this one.")


def _error(field: str, message: str, remedy: str) -> Finding:
    return Finding("error", None, field, message, remedy)
