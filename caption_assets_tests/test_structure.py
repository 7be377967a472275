"""How the package hangs together: imports run one way, and Dagster stays in the files that are meant for it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import caption_assets

ROOT = Path(caption_assets.__file__).parent
FILES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
DAGSTER = frozenset(
    ["assets", "commands", "dagster_runs", "definitions", "jobs", "partitions", "resources", "schedules", "sensors"]
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """All modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{each.name}" for each in node.names}
            found |= whole & set(MODULES) or {node.module}
    return found


GRAPH = {name: imports(path) - {name} for name, path in MODULES.items()}


def part(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: found & set(MODULES) for name, found in GRAPH.items()}).prepare()


def test_the_lake_and_the_pipeline_file_know_nobody_above_them() -> None:
    above = {
        name: sorted(found)
        for name, found in GRAPH.items()
        if part(name) in ("lake", "config")
        and {part(each) for each in found & set(MODULES)} - {"config", *(["lake"] if part(name) == "lake" else [])}
    }
    assert above == {}


def test_dagster_is_imported_only_where_it_belongs() -> None:
    users = {part(name) for name, found in GRAPH.items() if any(each.split(".")[0] == "dagster" for each in found)}
    assert users <= DAGSTER
