"""Perspectives: ways to look at a picture, each a prompt, an output schema, declared inputs and sampling.

A library of perspective files is loaded by `load_library`, checked by `lint`, and brought into the order in which the
enabled ones can run by `resolve`. `render_prompt` says what a model is asked, `guided_schema` what it may write,
`validate_output` whether an answer is a caption, `arrow_type` how it is stored, and `fingerprint` when it is stale.
"""

from caption_assets.perspectives.findings import Finding, Level, LibraryError, SelectionError
from caption_assets.perspectives.fingerprint import combine_parts, explain, fingerprint, fingerprint_parts
from caption_assets.perspectives.library import Library, library_files, load_library
from caption_assets.perspectives.lint import lint, lint_perspective
from caption_assets.perspectives.model import Perspective, Regions, Sampling, SchemaField, TableColumn
from caption_assets.perspectives.new import new_perspective_text, write_new_perspective
from caption_assets.perspectives.prompt import (
    PromptError,
    describe_schema,
    render_context,
    render_prompt,
    source_columns,
    source_values,
)
from caption_assets.perspectives.regions import output_form, region_fields
from caption_assets.perspectives.repetition import find_repetition
from caption_assets.perspectives.resolve import ResolvedPerspective, resolve
from caption_assets.perspectives.schema import (
    InvalidOutput,
    InvalidOutputKind,
    arrow_type,
    from_arrow_value,
    guided_schema,
    json_schema,
    to_arrow_value,
    validate_output,
)

__all__ = [
    "Finding",
    "InvalidOutput",
    "InvalidOutputKind",
    "Level",
    "Library",
    "LibraryError",
    "Perspective",
    "PromptError",
    "Regions",
    "ResolvedPerspective",
    "Sampling",
    "SchemaField",
    "SelectionError",
    "TableColumn",
    "arrow_type",
    "combine_parts",
    "describe_schema",
    "explain",
    "find_repetition",
    "fingerprint",
    "fingerprint_parts",
    "from_arrow_value",
    "guided_schema",
    "json_schema",
    "library_files",
    "lint",
    "lint_perspective",
    "load_library",
    "new_perspective_text",
    "output_form",
    "region_fields",
    "render_context",
    "render_prompt",
    "resolve",
    "source_columns",
    "source_values",
    "to_arrow_value",
    "validate_output",
    "write_new_perspective",
]
