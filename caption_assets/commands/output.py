"""Where commands print their tables."""

from __future__ import annotations

import sys

from rich.console import Console

_PLAIN_WIDTH = 160
"""Columns of a table that no terminal shows: a file or a pipe has no width of its own."""


def table_console() -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
