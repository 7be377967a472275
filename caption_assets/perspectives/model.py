"""The model of a perspective file: a prompt, an output schema, declared inputs and sampling.

The model checks types and names only. Whether a perspective makes sense (bounds that exclude each other, placeholders
that name no field) is the lint's question, so that one run can report every defect of a library at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

PERSPECTIVE_NAME = r"^[a-z][a-z0-9_]{0,63}\Z"
FIELD_NAME = r"^[A-Za-z_][A-Za-z0-9_]*\Z"

FieldType = Literal["str", "int", "float", "bool", "dict"]
Scope = Literal["image", "region"]
Count = Annotated[StrictInt, Field(ge=0)]
Number = StrictInt | StrictFloat


class _FileModel(BaseModel):
    """A part of a perspective file. Keys it does not know are left for the lint to report."""

    model_config = ConfigDict(frozen=True, extra="ignore", regex_engine="python-re")

    @model_validator(mode="before")
    @classmethod
    def _null_means_unset(cls, data: Any) -> Any:
        """Treat `null` as an absent key: exporters write every optional key that way."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class SchemaField(_FileModel):
    """One field of a perspective's output; with `fields` it is an object, whatever `type` says.

    `type` may also be a nested specification (an object with `type` or `fields`), as some files have it: it is folded
    into the field. Length, bounds and `enum` constrain a list's items, `min_items` and `max_items` the list itself.
    """

    name: Annotated[StrictStr, Field(pattern=FIELD_NAME)] = Field(
        description="an identifier: letters, digits and underscores, no digit first"
    )
    type: FieldType = Field(default="str", description='one of "str", "int", "float", "bool", "dict", or an object')
    description: StrictStr = Field(default="", description="a sentence that tells the model what to write")
    is_list: StrictBool = Field(default=False, description="true or false")
    is_complex: StrictBool = Field(default=False, description="true or false")
    fields: tuple[SchemaField, ...] | None = Field(default=None, description="a list of fields, as in schema_fields")
    max_length: Count | None = Field(default=None, description="a number of characters")
    min_length: Count | None = Field(default=None, description="a number of characters")
    minimum: Number | None = Field(default=None, description="a number")
    maximum: Number | None = Field(default=None, description="a number")
    enum: tuple[Any, ...] | None = Field(default=None, description="a list of the values allowed")
    optional: StrictBool = Field(default=False, description="true or false")
    min_items: Count | None = Field(default=None, description="a number of items")
    max_items: Count | None = Field(default=None, description="a number of items")

    @model_validator(mode="before")
    @classmethod
    def _fold_nested_type(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("type"), dict):
            return data
        nested = {key: value for key, value in data["type"].items() if value is not None and key != "name"}
        outer = {key: value for key, value in data.items() if key != "type" and value is not None}
        return {"type": "dict" if "fields" in nested else "str", **nested, **outer}

    @property
    def is_object(self) -> bool:
        """Whether the field (or each item of its list) is an object with declared fields."""
        return self.fields is not None


class TableColumn(_FileModel):
    """A column of the table in which a terminal shows the output."""

    name: StrictStr = Field(description="a heading")
    style: StrictStr = Field(default="", description="a colour or style of the rich library")


class Sampling(BaseModel):
    """How tokens are drawn. Only what is set here is sent; an unknown option is an error, not a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    temperature: float = Field(default=0.0, ge=0.0, le=2.0, description="a number from 0 (greedy) to 2")
    top_p: float | None = Field(default=None, gt=0.0, le=1.0, description="a number above 0, up to 1")
    top_k: StrictInt | None = Field(default=None, ge=-1, description="a whole number; -1 or 0 for all tokens")
    max_tokens: StrictInt = Field(default=1024, ge=1, description="a whole number of at least 1")
    seed: StrictInt | None = Field(default=None, description="a whole number")
    repetition_penalty: float | None = Field(default=None, gt=0.0, le=2.0, description="a number above 0, up to 2")


class Regions(BaseModel):
    """Where a perspective on regions finds its boxes, and how it cuts them out.

    The boxes are a list of objects in another perspective's output, each with a list of four numbers. `units` says what
    1 is: the whole width or height (`fraction`), a hundredth of it (`percent`), a thousandth (`thousandths`), or a
    pixel of the stored picture (`pixels`). `order` says what the numbers are: corners, or a corner and a size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, regex_engine="python-re")

    input: str = Field(description="the name of the perspective that has the boxes; it must be among the inputs")
    field: str = Field(description="the field of its output that is the list of objects with a box each")
    box: str = Field(default="box", description="the name of the objects' field that holds the four numbers")
    units: Literal["fraction", "percent", "thousandths", "pixels"] = Field(
        description='one of "fraction" (0 to 1), "percent", "thousandths", "pixels" (of the stored picture)'
    )
    order: Literal["xyxy", "yxyx", "xywh"] = Field(default="xyxy", description='one of "xyxy", "yxyx", "xywh"')
    padding: float = Field(
        default=0.0, ge=0.0, le=10.0, description="a number from 0 to 10: what is added on each side, in box sizes"
    )
    min_pixels: StrictInt = Field(
        default=28, ge=1, description="a whole number of at least 1: the shortest side of a crop, in stored pixels"
    )
    max_regions: StrictInt = Field(
        default=100, ge=1, le=10_000, description="a whole number from 1 to 10000: regions looked at in a picture"
    )


class Perspective(_FileModel):
    """One way to look at a picture: what is asked, what an answer looks like, and what it reads besides the picture."""

    name: Annotated[StrictStr, Field(pattern=PERSPECTIVE_NAME)] = Field(
        description="a lower-case identifier of up to 64 characters, such as street_scene"
    )
    display_name: StrictStr = Field(default="", description="a title for people")
    version: StrictStr = Field(default="1", description='a text such as "1" or "1.2"')
    prompt: StrictStr = Field(description="the text the model is asked; it may be a Jinja2 template")
    schema_fields: tuple[SchemaField, ...] = Field(description="a list of objects, one per field of the output")
    table_columns: tuple[TableColumn, ...] = Field(default=(), description="a list of {name, style}")
    context_template: StrictStr = Field(default="", description="a text with {field} placeholders")
    module: StrictStr = Field(default="", description="the group this perspective belongs to")
    type: Literal["perspective", "synthesizer", "custom"] = Field(
        default="perspective", description='one of "perspective", "synthesizer", "custom"'
    )
    tags: tuple[StrictStr, ...] = Field(default=(), description="a list of texts")
    description: StrictStr = Field(default="", description="what this perspective is for")
    deprecated: StrictBool = Field(default=False, description="true or false")
    replacement: StrictStr | None = Field(default=None, description="the name of the perspective to use instead")
    priority: StrictInt = Field(default=100, description="a whole number; low comes first")
    inputs: tuple[StrictStr, ...] | None = Field(default=None, description="a list of perspective names")
    scope: Scope = Field(default="image", description='"image" or "region"')
    regions: Regions | None = Field(
        default=None, description='an object such as {"input": "objects", "field": "objects", "units": "percent"}'
    )
    engine: StrictStr | None = Field(default=None, description="the name of an engine of the pipeline file")
    sampling: Sampling = Field(default=Sampling(), description='an object such as {"temperature": 0.2}')
    image: StrictBool = Field(default=True, description="true, or false for a text-only perspective")
    describe_schema: StrictBool = Field(default=True, description="true or false")

    @field_validator("version", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _default_display_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str) and not data.get("display_name"):
            return {**data, "display_name": data["name"].replace("_", " ").capitalize()}
        return data

    def __hash__(self) -> int:
        # Cheap on purpose, for compiled schemas are cached by perspective; equality tells the rest apart.
        return hash((self.name, self.version, self.prompt))

    def walk_fields(self) -> Iterator[tuple[str, SchemaField]]:
        """Yield every field, depth first, with its path in the file (`schema_fields[0].fields[1]`)."""
        yield from _walk("schema_fields", self.schema_fields)


def _walk(path: str, fields: tuple[SchemaField, ...]) -> Iterator[tuple[str, SchemaField]]:
    for index, field in enumerate(fields):
        here = f"{path}[{index}]"
        yield here, field
        if field.fields is not None:
            yield from _walk(f"{here}.fields", field.fields)
