"""`caption-assets status`: how far everything is, once or all the time, for people and for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live

from caption_assets.commands.output import table_console
from caption_assets.commands.status_screen import in_a_line, screen
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns
from caption_assets.status.reading import Status, read_status

if TYPE_CHECKING:
    import dagster as dg

_PROGRESS_SECONDS = 5.0
_BUSY_SHARE = 0.25
"""Of the time, what --watch may spend on reading a lake that is slow to read."""


def show_status(*, as_json: bool, shards: int = 0) -> None:
    """Print the status once; `shards`: how many rows of single shards."""
    status = _Reader(shards).read()
    if as_json:
        print(json.dumps(status.document(), ensure_ascii=False))
    else:
        table_console().print(screen(status))


def watch_status(*, as_json: bool, shards: int, every: float) -> None:
    """Show the status until Ctrl-C: on a terminal a picture that changes, else a line each time."""
    reader = _Reader(shards)
    try:
        if sys.stdout.isatty() and not as_json:
            with Live(console=table_console(), auto_refresh=False, vertical_overflow="crop") as live:
                for status in reader.often(every):
                    live.update(Group(screen(status)), refresh=True)
        else:
            for status in reader.often(every):
                line = json.dumps(status.document(), ensure_ascii=False) if as_json else in_a_line(status)
                print(line, flush=True)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read this has had enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Reader:
    """Reads the status again and again, and asks Dagster where there is an instance to ask."""

    def __init__(self, shards: int) -> None:
        self._config = load_config(check_paths=False)  # what is captioned stays visible without its source
        self._shards = shards
        self._instance = _instance()

    def read(self) -> Status:
        """The status now."""
        known = self._known(self._config)
        return read_status(self._config, known, shards=self._shards, tell=_Progress().tell)

    def often(self, every: float) -> Iterator[Status]:
        """The status every so many seconds; less often where it takes long to read."""
        while True:
            started = time.monotonic()
            yield self.read()
            took = time.monotonic() - started
            time.sleep(max(every - took, took * (1 / _BUSY_SHARE - 1), 0.0))

    def _known(self, config: PipelineConfig) -> KnownRuns:
        if self._instance is None:
            return NOTHING_KNOWN
        from caption_assets.dagster_runs import known_runs

        try:
            return known_runs(self._instance, config)
        except Exception as error:  # a database that is away says nothing about the lake
            print(f"warning: Dagster's instance cannot be asked: {error}", file=sys.stderr)
            return NOTHING_KNOWN


class _Progress:
    """Says how far counting is, where it takes long: what was counted once is not counted again on this machine."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def tell(self, counted: int, total: int) -> None:
        """A line every few seconds."""
        if time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            print(f"counting what is new: {counted:,} of {total:,} shards", file=sys.stderr, flush=True)


def _instance() -> dg.DagsterInstance | None:
    """The instance that DAGSTER_HOME names, if it does."""
    if not os.environ.get("DAGSTER_HOME"):
        return None
    import dagster as dg

    logging.getLogger("dagster").setLevel(logging.ERROR)
    with suppress(Exception):  # a folder that is not there, a database that is away
        return dg.DagsterInstance.get()
    print("warning: DAGSTER_HOME names no usable instance, so runs that wait are not seen", file=sys.stderr)
    return None
