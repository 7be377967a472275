"""`caption-assets query`: SQL over the lake as it is now, wherever it is."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import duckdb
from rich.markup import escape
from rich.table import Table

from caption_assets.captioning.catalog import open_views
from caption_assets.commands.output import table_console
from caption_assets.config import load_config


def run_query(sql: str, style: str) -> int:
    """Print a query's rows as a table, CSV or JSON; returns the exit code."""
    try:
        with open_views(load_config(check_paths=False)) as connection:  # captions can be read without their source
            result = connection.sql(sql)
            columns = list(result.columns) if result is not None else []
            rows = result.fetchall() if result is not None else []
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    elif style == "json":
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], sys.stdout, default=str, ensure_ascii=False)
        print()
    else:
        _print_table(columns, rows)
    return 0


def _print_table(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    table = Table(*(escape(column) for column in columns))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    table_console().print(table)
    print(f"{len(rows)} rows")
