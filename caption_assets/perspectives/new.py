"""A commented perspective file to start from."""

from __future__ import annotations

import re
from pathlib import Path

from caption_assets.perspectives.model import PERSPECTIVE_NAME
from caption_assets.perspectives.new_regions import BOXES_TEXT, REGIONS_TEXT

_TEXT = """\
// A perspective: one way to look at a picture. Files that end in .jsonc may hold comments like this one.
{
  // Names the caption's folder, asset and view: lower case, digits and underscores.
  "name": "@name@",
  "display_name": "@title@",
  "version": "1",
  "module": "@module@",
  "description": "What this perspective is for, in one sentence, for people.",
  "tags": ["custom"],
  // Low comes first wherever the order is free.
  "priority": 100,

  // What the model is asked. The picture stands before this text.
  // With {{ or {% it is a Jinja2 template: {{ source.title }} inserts a column of the data set,
  // {{ context.simple_caption }} what another perspective said, if "inputs" below names it.
  "prompt": "Look at the picture and say what happens in it. Describe only what is visible.",

  // What an answer must look like. Types: str, int, float, bool, dict; "fields" makes an object, "is_list" a list.
  // Bounds (max_length, min_length, minimum, maximum, enum, min_items, max_items) are enforced while the model
  // writes; "optional": true lets it leave a field out. The model writes the fields in this order.
  "schema_fields": [
    {
      "name": "caption",
      "type": "str",
      "description": "One or two sentences about the main subject and what it does.",
      "min_length": 1,
      "max_length": 400
    },
    {
      "name": "subjects",
      "type": "dict",
      "description": "The subjects, the most prominent first.",
      "is_list": true,
      "max_items": 8,
      "fields": [
        {"name": "label", "type": "str", "description": "A short name.", "min_length": 1, "max_length": 60},
        {"name": "prominence", "type": "str", "description": "Its weight.", "enum": ["main", "secondary"]}
      ]
    }
  ],

  // How the answer reads inside the prompt of another perspective; {subjects.label} reaches into objects.
  "context_template": "{caption} Subjects: {subjects.label}.",

  // The columns of the table that a terminal shows.
  "table_columns": [{"name": "caption", "style": "green"}, {"name": "subjects", "style": "cyan"}],

  // Other perspectives this one reads, for example ["simple_caption"].
  "inputs": [],
  // false for a perspective that reads its inputs only and does not see the picture.
  "image": true,
  // Appends a description of the fields to the prompt.
  "describe_schema": true,
  // Temperature 0 always takes the likeliest token. Further options: top_p, top_k, seed, repetition_penalty.
  "sampling": {"temperature": 0.0, "max_tokens": 512}
}
"""


def new_perspective_text(name: str, module: str = "custom") -> str:
    """Write the text of a commented perspective file.

    Raises:
        ValueError: the name is no perspective name.
    """
    return _fill(_TEXT, name, module)


def write_new_perspective(name: str, folder: Path, *, region: bool = False) -> list[Path]:
    """Write a commented perspective file to start from, as `<name>.jsonc` in `folder`.

    Args:
        region: write a perspective on regions, and `<name>_boxes.jsonc`, which draws their boxes.

    Returns:
        The paths of what was written.

    Raises:
        ValueError: the name is no perspective name, or too long for a pair.
        FileExistsError: one of the files exists already, as `.jsonc` or as `.json`; nothing is written.
    """
    texts = {name: _fill(REGIONS_TEXT if region else _TEXT, name, "custom")}
    if region:
        _check_name(f"{name}_boxes")
        texts[f"{name}_boxes"] = _fill(BOXES_TEXT, name, "custom")
    folder.mkdir(parents=True, exist_ok=True)
    for each in texts:
        for file in (folder / f"{each}.json", folder / f"{each}.jsonc"):
            if file.exists():
                raise FileExistsError(f"{file} exists already")
    return [_write(folder / f"{each}.jsonc", text) for each, text in texts.items()]


def _write(path: Path, text: str) -> Path:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists already") from error
    return path


def _fill(text: str, name: str, module: str) -> str:
    _check_name(name)
    values = {"name": name, "title": name.replace("_", " ").capitalize(), "module": module}
    return re.sub(r"@(name|title|module)@", lambda match: values[match.group(1)], text)


def _check_name(name: str) -> None:
    if not re.match(PERSPECTIVE_NAME, name):
        raise ValueError(
            f"{name!r} is no name for a perspective: use lower-case letters, digits and underscores, a letter first, "
            "64 characters at most"
        )
