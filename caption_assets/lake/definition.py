"""What decides how the catalog's views are made: what is asked of perspectives, their forms, and what is hidden."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.current import read_current
from caption_assets.lake.hidden import departed_indexes
from caption_assets.lake.store import Lake, table_bytes


@dataclass(frozen=True)
class Wanted:
    """What the pipeline file asks of a perspective now."""

    fingerprint: str
    inputs: tuple[str, ...]
    output: pa.DataType
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What is different now from earlier forms, by their fingerprints."""
    priced: bool = True
    """Whether its engine has prices, so that redoing it has a cost."""


@dataclass(frozen=True)
class Wants:
    """What the pipeline file asks of the lake now."""

    perspectives: Mapping[str, Wanted]
    retained: Collection[str] = ()
    """Datasets whose views keep what their source no longer has."""
    normalisation: str | None = None
    """How pictures are to be stored; None: any way is right."""


@dataclass(frozen=True)
class Definition:
    """All of it, as a lake is at one moment. Equal definitions make the same views, whatever was captioned between."""

    wants: Wants
    current: Mapping[str, str]
    forms: Mapping[str, Sequence[str]]
    """The fingerprints of a perspective's forms that the lake has rows of, or a zero-row file."""
    departed: tuple[str, ...]
    """The files of media in which departed items are looked for; a glob where they are many."""

    @classmethod
    def read(cls, lake: Lake, wants: Wants) -> Definition:
        """As it is now; the zero-row files are in place."""
        return cls(wants, read_current(lake), forms_in(lake), tuple(departed_indexes(lake, wants.retained)))

    @property
    def shown(self) -> dict[str, str]:
        """The form of each perspective that the views show first."""
        return shown_of(self.forms, self.current)

    def digest(self, url: str) -> str:
        """Tells it from others of the lake at `url`, and of other releases."""
        wants = self.wants
        asked = [
            [name, each.fingerprint, each.inputs, each.changes, each.priced]
            for name, each in sorted(wants.perspectives.items())
        ]
        shown = [sorted(self.current.items()), sorted((name, sorted(each)) for name, each in self.forms.items())]
        parts = [url, _release(), asked, shown, sorted(wants.retained), wants.normalisation, self.departed]
        return hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()

    def empty_tables(self, lake: Lake) -> dict[str, pa.Schema]:
        """The zero-row files of a lake that holds nothing, but has all of these forms. Raises FileNotFoundError."""
        empty = {**_EMPTY, **_of_wanted(self.wants.perspectives)}
        for path in self.departed:
            if "*" not in path:
                empty[path] = tables.MEDIA
        for name, forms in self.forms.items():
            for fingerprint in forms:
                if (path := _empty_file(name, fingerprint)) not in empty:
                    empty[path] = tables.captions_schema(_output(lake, name, fingerprint))
        return empty


_EMPTY = {
    f"shards/{layout.EMPTY}": tables.PLAN,
    f"media/{layout.EMPTY}": tables.MEDIA,
    f"failures/stage=_/{layout.EMPTY}": tables.FAILURES,
    "runs/_/empty.parquet": tables.RUNS,
    layout.NO_NEAR_DUPLICATES: tables.NEAR_DUPLICATES,
    f"{layout.TOMBSTONES}/empty.parquet": tables.TOMBSTONES,
    f"{layout.DEPARTURES}/{layout.EMPTY}": tables.DEPARTURES,
    f"{layout.MERGES}/{layout.EMPTY}": tables.MERGES,
    f"{layout.RECONCILIATIONS}/_/empty.parquet": tables.RECONCILIATIONS,
}
"""Every table's glob also matches one of these, so that no view fails on an empty lake."""


def ensure_tables(lake: Lake, wanted: Mapping[str, Wanted]) -> None:
    """Put the zero-row files in place."""
    write_empty(lake, {**_EMPTY, **_of_wanted(wanted)})


def write_empty(lake: Lake, schemas: Mapping[str, pa.Schema]) -> None:
    """Write zero-row files, and a file of heartbeats without one, where there are none."""
    if not lake.exists(f"{layout.RUNNING}/{layout.NO_HEARTBEAT}"):
        lake.write(f"{layout.RUNNING}/{layout.NO_HEARTBEAT}", b"")
    for path, schema in schemas.items():
        if not lake.exists(path):
            lake.write(path, table_bytes(schema.empty_table()))


def forms_in(lake: Lake) -> dict[str, list[str]]:
    """The fingerprints of all forms of every perspective that the lake has rows of, or a zero-row file."""
    names = [entry.removeprefix("perspective=") for entry in lake.list("captions") if entry.startswith("perspective=")]
    return {name: fingerprints for name in names if (fingerprints := _fingerprints(lake, name))}


def shown_of(forms: Mapping[str, Sequence[str]], current: Mapping[str, str]) -> dict[str, str]:
    """The form of each perspective that the views show first."""
    return {name: current[name] if current.get(name) in each else each[0] for name, each in forms.items()}


def _of_wanted(wanted: Mapping[str, Wanted]) -> dict[str, pa.Schema]:
    return {_empty_file(name, each.fingerprint): tables.captions_schema(each.output) for name, each in wanted.items()}


def _empty_file(name: str, fingerprint: str) -> str:
    return f"{layout.fingerprint_folder(name, fingerprint)}/dataset=_/shard=_/empty.parquet"


def _fingerprints(lake: Lake, name: str) -> list[str]:
    """The forms of a perspective that have a file: a writer that was killed can leave folders without one."""
    forms = [entry for entry in lake.list(f"captions/perspective={name}") if entry.startswith("fingerprint=")]
    fingerprints = [entry.removeprefix("fingerprint=") for entry in forms]
    return [each for each in fingerprints if _file(lake, name, each)]


def _file(lake: Lake, name: str, fingerprint: str) -> str | None:
    """One of a form's files."""
    form = layout.fingerprint_folder(name, fingerprint)
    datasets = (f"{form}/{dataset}" for dataset in lake.list(form))
    shards = (f"{dataset}/{shard}" for dataset in datasets for shard in lake.list(dataset))
    files = (f"{shard}/{file}" for shard in shards for file in lake.list(shard) if file.endswith(".parquet"))
    return next(files, None)


def _output(lake: Lake, name: str, fingerprint: str) -> pa.DataType:
    """The type of a form's outputs, by one of its files. Raises FileNotFoundError."""
    file = _file(lake, name, fingerprint)
    if file is None:
        raise FileNotFoundError(layout.fingerprint_folder(name, fingerprint))
    return lake.read_table(file, ["output"]).schema.field("output").type


@cache
def _release() -> str:
    """Tells the views of another release, or of another DuckDB, from ours."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"\0".join(each.read_bytes() for each in sources)).hexdigest()
    return f"{duckdb.__version__} {code}"
