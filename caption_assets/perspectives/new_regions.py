"""A commented pair of perspective files to start from: one finds things, the other looks at each."""

from __future__ import annotations

BOXES_TEXT = """\
// Finds things and draws a box around each; "@name@" looks at each box.
{
  "name": "@name@_boxes",
  "display_name": "@title@ boxes",
  "version": "1",
  "module": "@module@",
  "description": "Where the subjects are, as boxes.",
  "tags": ["custom", "detection"],

  // Models differ in how they write boxes: Qwen2.5-VL in pixels, Qwen3-VL and Gemini in thousandths. Ask for what yours
  // was trained on, and say the same in "units" and "order" of @name@.jsonc.
  "prompt": "Find every animal. Give each a box [x0, y0, x1, y1] in thousandths of the picture's width and height.",
  "schema_fields": [
    {
      "name": "objects",
      "type": "dict",
      "description": "Every animal, the most prominent first; empty if there is none.",
      "is_list": true,
      "max_items": 50,
      "fields": [
        {"name": "label", "type": "str", "description": "A short name.", "min_length": 1, "max_length": 60},
        {
          "name": "box",
          "type": "int",
          "description": "x0, y0, x1, y1 in thousandths.",
          "is_list": true,
          "min_items": 4,
          "max_items": 4,
          "minimum": 0,
          "maximum": 1000
        }
      ]
    }
  ],
  "context_template": "Found: {objects.label}.",
  "table_columns": [{"name": "objects", "style": "yellow"}],
  "inputs": [],
  "sampling": {"temperature": 0.0, "max_tokens": 1024}
}
"""

REGIONS_TEXT = """\
// Looks at each box that "@name@_boxes" draws. A row is still one a picture; the view regions_@name@ has one a region.
{
  "name": "@name@",
  "display_name": "@title@",
  "version": "1",
  "module": "@module@",
  "description": "What each of the boxes shows.",
  "tags": ["custom"],

  "scope": "region",
  "inputs": ["@name@_boxes"],
  "regions": {
    // Where the boxes are: a perspective, its list of objects, and their field with four numbers.
    "input": "@name@_boxes",
    "field": "objects",
    "box": "box",
    // fraction (0 to 1), percent, thousandths, or pixels of the stored picture; order: xyxy, yxyx or xywh.
    "units": "thousandths",
    "order": "xyxy",
    // What is added on each side, in sizes of the box, and the shortest side of a crop in pixels.
    "padding": 0.1,
    "min_pixels": 28,
    // Further boxes are counted as "over_limit" and not looked at.
    "max_regions": 100
  },

  // The crop stands before this text. It may read region.index, region.box (fractions), region.box_pixels (of the
  // original), and what the input says of it, here region.label.
  "prompt": "This was taken for: {{ region.label }}. Which species is it?",

  // What is said of one region.
  "schema_fields": [
    {"name": "species", "type": "str", "description": "Its common name.", "min_length": 1, "max_length": 80},
    {"name": "confidence", "type": "float", "description": "How sure you are.", "minimum": 0, "maximum": 1}
  ],
  // How all of it reads inside the prompt of another perspective.
  "context_template": "Species: {regions.species}.",
  "table_columns": [{"name": "species", "style": "green"}, {"name": "confidence", "style": "cyan"}],
  "sampling": {"temperature": 0.0, "max_tokens": 256}
}
"""
