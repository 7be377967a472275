"""Perspective libraries: folders of perspective files, the later overriding the earlier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from caption_assets.perspectives.findings import Finding, LibraryError, closest, quote
from caption_assets.perspectives.jsonc import SUFFIXES, read_json
from caption_assets.perspectives.model import Perspective, Regions, Sampling, SchemaField, TableColumn

_PACKAGE = Path(__file__).resolve().parent
BUNDLED = {"builtin": _PACKAGE / "builtin", "demo": _PACKAGE.parent / "demo" / "perspectives"}
_IGNORED_KEYS = {"$schema"}


@dataclass(frozen=True)
class Library:
    """The perspectives of one or more folders, by name, and the file each was read from.

    `notes` says which perspective overrides which; `findings` holds what loading found that is no error (unknown keys,
    missing modules) and is part of what `lint` reports.
    """

    perspectives: Mapping[str, Perspective]
    files: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def load_library(entries: Sequence[str | Path], base_dir: Path) -> Library:
    """Load the perspectives of several folders.

    Args:
        entries: `builtin`, `demo`, or folders, which are searched for `.json` and `.jsonc` files with all their
            sub-folders (hidden ones aside). A later entry's perspective replaces an earlier one's of the same name.
        base_dir: what relative folders are relative to.

    Raises:
        LibraryError: a folder is missing, a file is no perspective, or a name stands twice in one entry. It holds every
            such error, not just the first.
    """
    perspectives: dict[str, Perspective] = {}
    files: dict[str, Path] = {}
    notes: list[str] = []
    findings: list[Finding] = []
    for folder in dict.fromkeys(_folder(entry, base_dir) for entry in entries):
        loaded = _load_folder(folder, findings)
        again = sorted(loaded.keys() & perspectives.keys())
        notes += [f"{name}: {loaded[name][1]} overrides {files[name]}" for name in again]
        for name, (perspective, path) in loaded.items():
            perspectives[name], files[name] = perspective, path
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise LibraryError(errors)
    return Library(perspectives, files, notes, findings)


def library_files(entries: Sequence[str | Path], base_dir: Path) -> list[Path]:
    """The files that `load_library` reads, in its order; none of a folder that is missing."""
    folders = dict.fromkeys(_folder(entry, base_dir) for entry in entries)
    return [file for folder in folders if folder.is_dir() for file in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """The perspective files under a folder, hidden ones aside."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def _folder(entry: str | Path, base_dir: Path) -> Path:
    if isinstance(entry, str) and entry in BUNDLED:
        return BUNDLED[entry]
    return (base_dir / Path(entry).expanduser()).resolve()


def _load_folder(folder: Path, findings: list[Finding]) -> dict[str, tuple[Perspective, Path]]:
    loaded: dict[str, tuple[Perspective, Path]] = {}
    if not folder.is_dir():
        findings.append(
            Finding("error", folder, "", "there is no such folder", "Create it, or correct perspectives.library.")
        )
        return loaded
    for path in _files(folder):
        perspective = load_perspective(path, findings)
        if perspective is None:
            continue
        if perspective.name in loaded:
            message = f"the name {quote(perspective.name)} is taken by {loaded[perspective.name][1]}"
            findings.append(Finding("error", path, "name", message, "Rename one of the two, or delete it."))
            continue
        loaded[perspective.name] = (perspective, path)
    return loaded


def load_perspective(path: Path, findings: list[Finding]) -> Perspective | None:
    """Load one file; append what is wrong with it to `findings`, and return None if that includes an error."""
    try:
        data, twice = read_json(path)
    except OSError as error:
        findings.append(Finding("error", path, "", f"cannot be read: {error}", "Check the file and its permissions."))
        return None
    except ValueError as error:
        remedy = "Correct the JSON"
        remedy += "." if path.suffix == ".jsonc" else "; a file with // comments must be named .jsonc."
        findings.append(Finding("error", path, "", f"not valid JSON: {error}", remedy))
        return None
    if not isinstance(data, dict):
        remedy = "Write one JSON object with name, prompt and schema_fields."
        findings.append(Finding("error", path, "", "a perspective file holds one object", remedy))
        return None
    for key in twice:
        message = f"the key {quote(key)} stands twice in one object; the last one counts"
        findings.append(Finding("warning", path, key, message, "Delete one of the two."))
    try:
        perspective = Perspective.model_validate(data)
    except ValidationError as error:
        findings.extend(_type_findings(path, error))
        return None
    findings.extend(_unknown_keys(path, data))
    if not perspective.module:
        module = path.resolve().parent.name
        message = f"no module is given; the folder's name, {quote(module)}, is used"
        findings.append(Finding("note", path, "module", message, f'Add "module": "{module}".'))
        perspective = perspective.model_copy(update={"module": module})
    return perspective


# --- From a file's defects to findings ------------------------------------------------------------------------------


def _type_findings(path: Path, error: ValidationError) -> list[Finding]:
    findings: dict[str, Finding] = {}
    for problem in error.errors(include_url=False, include_context=False):
        location = _known_location(problem["loc"])
        where = _dotted(location)
        expected = _expected(location)
        if problem["type"] == "missing":
            key = str(location[-1])
            finding = Finding("error", path, where, f"{quote(key)} is missing", f"Add it: {expected}.")
        elif problem["type"] == "extra_forbidden":
            options = _models(location)[-1].model_fields
            remedy = closest(str(location[-1]), options) or f"Use one of {', '.join(options)}."
            finding = Finding("error", path, where, f"this {location[0]} option does not exist", remedy)
        else:
            shown = _shorten(repr(problem["input"]))
            message = f"{shown} is not valid here"
            remedy = f"Use {expected}." if expected else f"{problem['msg']}."
            finding = Finding("error", path, where, message, remedy)
        # A union reports one problem for each of its members; the first is enough.
        findings.setdefault(where, finding)
    return list(findings.values())


def _models(location: Sequence[str | int]) -> list[type[BaseModel]]:
    """Name the model that each part of a location belongs to."""
    models: list[type[BaseModel]] = []
    current: type[BaseModel] = Perspective
    children: dict[str, type[BaseModel]] = {
        "schema_fields": SchemaField,
        "fields": SchemaField,
        "table_columns": TableColumn,
        "sampling": Sampling,
        "regions": Regions,
    }
    for part in location:
        models.append(current)
        if isinstance(part, str):
            current = children.get(part, current)
    return models


def _known_location(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Cut off what pydantic appends to name the member of a union."""
    kept: list[str | int] = []
    for part, model in zip(location, _models(location), strict=True):
        if isinstance(part, str) and part not in model.model_fields and model not in (Sampling, Regions):
            break
        kept.append(part)
    return tuple(kept)


def _expected(location: Sequence[str | int]) -> str:
    """Describe what belongs at a location, in the words of the model."""
    if not location:
        return ""
    for part, model in zip(reversed(location), reversed(_models(location)), strict=True):
        if isinstance(part, str) and part in model.model_fields:
            return model.model_fields[part].description or ""
    return ""


def _dotted(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown_keys(path: Path, data: Mapping[str, Any]) -> list[Finding]:
    findings: list[Finding] = []

    def check(value: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
        for key in value:
            if key in model.model_fields or (not where and key in _IGNORED_KEYS):
                continue
            here = f"{where}.{key}" if where else key
            remedy = closest(key, model.model_fields) or "Delete it, or move it into the description."
            findings.append(Finding("warning", path, here, f"the key {quote(key)} is unknown and ignored", remedy))

    def check_fields(fields: Sequence[Mapping[str, Any]] | None, where: str) -> None:
        for index, item in enumerate(fields or ()):
            here = f"{where}[{index}]"
            check(item, SchemaField, here)
            check_fields(item.get("fields"), f"{here}.fields")
            if isinstance(item.get("type"), dict):
                check(item["type"], SchemaField, f"{here}.type")
                check_fields(item["type"].get("fields"), f"{here}.type.fields")

    check(data, Perspective, "")
    check_fields(data.get("schema_fields"), "schema_fields")
    for index, column in enumerate(data.get("table_columns") or ()):
        check(column, TableColumn, f"table_columns[{index}]")
    return findings
