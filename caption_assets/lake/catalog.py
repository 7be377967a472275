"""The catalog: `catalog.duckdb`, a database of views over the lake and a small manifest of perspectives, without data.

It is made anew when its definition has changed; what is captioned meanwhile shows in it by itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from caption_assets.lake import layout
from caption_assets.lake.definition import Definition, Wants, ensure_tables, write_empty
from caption_assets.lake.heartbeats import read_beats
from caption_assets.lake.sql_files import SqlFiles, over, quoted
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns, tell_beats, tell_known
from caption_assets.lake.store import Lake
from caption_assets.lake.vanishing import again_when_sealed
from caption_assets.lake.views import create_views

_MAX_SPILL = "16GB"
"""What a query may put on disk when it does not fit into memory; beyond that it fails, and the disk does not fill."""


@again_when_sealed()
def refresh_catalog(lake: Lake, wants: Wants) -> None:
    """Put the file in place, atomically, unless it is there.

    Args:
        wants: at least one perspective.
    """
    with _made(lake, wants) as (file, new):
        if new:
            lake.write(layout.CATALOG, file.read_bytes())


@again_when_sealed()
def connect(lake: Lake, wants: Wants, known: KnownRuns = NOTHING_KNOWN) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views over the lake as it is now.

    Args:
        wants: as for `refresh_catalog`.
        known: what Dagster knows of runs.
    """
    spill = Path(tempfile.gettempdir()) / f"caption-assets-duckdb-{os.getuid()}"  # not in the current folder
    connection = duckdb.connect(config={"temp_directory": str(spill), "max_temp_directory_size": _MAX_SPILL})
    connection.execute("SET enable_progress_bar = false")  # it writes to standard output, between what programs read
    if not lake.local:
        connection.register_filesystem(lake.fs)
    with _made(lake, wants) as (file, _):
        connection.execute(f"ATTACH {quoted(str(file))} AS made (READ_ONLY)")
        connection.execute("COPY FROM DATABASE made TO memory")
        connection.execute("DETACH made")
    tell_known(connection, known)
    tell_beats(connection, read_beats(lake))
    return connection


@contextmanager
def _made(lake: Lake, wants: Wants) -> Iterator[tuple[Path, bool]]:
    """The catalog as it should be, in a file that is gone afterwards; and whether the lake's own is not like it."""
    ensure_tables(lake, wants.perspectives)
    definition = Definition.read(lake, wants)
    digest = definition.digest(lake.url(""))
    with tempfile.TemporaryDirectory(prefix="caption-assets-") as folder:
        stored, built = Path(folder) / "stored.duckdb", Path(folder) / "built.duckdb"
        if lake.exists(layout.CATALOG):
            stored.write_bytes(lake.read(layout.CATALOG))
            if _digest_of(stored) == digest:
                yield stored, False
                return
        nothing = Lake(f"{folder}/nothing")
        write_empty(nothing, definition.empty_tables(lake))
        with duckdb.connect(str(built)) as connection:
            connection.begin()  # each statement for itself would be written down
            with over(connection, Path(folder) / "nothing"):
                create_views(connection, definition, SqlFiles(lake.url("")))
            connection.execute("CREATE TABLE rows.made_of AS SELECT ? AS digest", [digest])
            connection.commit()
        yield built, True


def _digest_of(file: Path) -> str | None:
    """What a catalog was made of; None: an earlier release made it, or it is none."""
    try:
        with duckdb.connect(str(file), read_only=True) as catalog:
            row = catalog.execute("FROM rows.made_of").fetchone()
    except duckdb.Error:
        return None
    return None if row is None else str(row[0])
