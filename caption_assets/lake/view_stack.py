"""Views upon views, each made at the cost of its own statement."""

from __future__ import annotations

import re
from typing import Any

import duckdb

_VIEW = re.compile(r"\s*CREATE VIEW (?P<name>\S+) AS\b", re.ASCII)


class ViewStack:
    """Executes statements in a database, where views are made the quick way.

    DuckDB binds a view down to the files that it reads, once for each way that leads there, and ways multiply from view
    to view. So while views are made, those below are empty tables; `finish` puts the views in their places, from above.

    Args:
        connection: to the database.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._views: list[tuple[str, str]] = []

    def execute(self, statement: str, parameters: object = None) -> Any:
        """Execute one statement."""
        done = self._connection.execute(statement, parameters)
        if view := _VIEW.match(statement):
            self._views.append((view["name"], statement))
            self._replace(view["name"])
        return done

    def finish(self) -> None:
        """Make all views what they are to be."""
        for name, statement in reversed(self._views):
            self._connection.execute(f"DROP TABLE {name}")
            self._connection.execute(statement)
        self._views.clear()

    def _replace(self, name: str) -> None:
        """Put an empty table of the same columns in a view's place."""
        self._connection.execute(f"CREATE TEMP TABLE like_it AS FROM {name} LIMIT 0")
        self._connection.execute(f"DROP VIEW {name}")
        self._connection.execute(f"CREATE TABLE {name} AS FROM like_it")
        self._connection.execute("DROP TABLE like_it")
