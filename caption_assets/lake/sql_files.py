"""The lake's files as SQL names them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

_ROOT = "caption_assets_lake"
"""A variable of DuckDB's; unset, files are those of the lake itself."""


class SqlFiles:
    """Files of a lake, in views that are made without a look at any of them.

    DuckDB opens every file that a view is over when the view is made, once for each way that leads there: with many
    files that takes forever, and one that is removed meanwhile makes it fail. So views are made over another lake.

    Args:
        url: of the lake.
    """

    def __init__(self, url: str) -> None:
        self._root = quoted(glob.escape(url.rstrip("/")))

    def location(self, pattern: str) -> str:
        """A path or glob below the lake, whose own path is taken literally."""
        return f"coalesce(getvariable('{_ROOT}'), {self._root}) || {quoted(f'/{pattern}')}"

    def read(self, patterns: Sequence[str]) -> str:
        """What reads the files of paths and globs, as they are."""
        places = ", ".join(map(self.location, patterns))
        return f"read_parquet([{places}], union_by_name = true, hive_partitioning = false)"

    def rows(self, pattern: str, schema: pa.Schema, since: str = "", columns: Sequence[str] = ()) -> str:
        """The SELECT over a glob's files.

        Args:
            schema: of the table; its columns in its order, whatever the files have.
            since: a SELECT of the columns that files of earlier releases lack.
            columns: what to select instead.
        """
        files = self.read([pattern])
        if since:
            files = f"(SELECT * FROM {files} UNION ALL BY NAME {since})"
        names = columns or [f'"{name}"' for name in schema.names]
        return f"SELECT {', '.join(names)} FROM {files}"


@contextmanager
def over(connection: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[None]:
    """Let the files be those of another lake, for so long."""
    connection.execute(f"SET VARIABLE {_ROOT} = {quoted(glob.escape(str(folder)))}")
    try:
        yield
    finally:
        connection.execute(f"RESET VARIABLE {_ROOT}")


def quoted(text: str) -> str:
    """A text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
