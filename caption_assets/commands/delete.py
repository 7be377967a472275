"""`caption-assets delete`: takes pictures out of the lake, with their captions, so that they never come back."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from caption_assets.captioning.catalog import refresh
from caption_assets.config import ConfigError, load_config
from caption_assets.exports.formats import exports_of
from caption_assets.lake.store import Lake
from caption_assets.lake.tombstones import datasets_of
from caption_assets.media.deletion import PlannedDeletion, delete, plan_deletion
from caption_assets.sources.planner import planned_datasets

_MEDIA_ID = re.compile(r"[0-9a-f]{64}")
_SHOWN = 50


@dataclass
class Request:
    """What the command line asks to delete."""

    media_ids: set[str] = field(default_factory=set)
    uris: set[tuple[str, str]] = field(default_factory=set)
    """(dataset, uri)."""


def read_request(media_ids: Iterable[str], uris: Iterable[str], file: Path | None, dataset: str | None) -> Request:
    """Understand the options. Raises ConfigError, naming the option, or the file's line."""
    request = Request()
    for media_id in media_ids:
        if not _MEDIA_ID.fullmatch(media_id):
            raise ConfigError(f"--media-id: {media_id!r} is no media_id; give its 64 hex digits, in lower case")
        request.media_ids.add(media_id)
    named = [("--uri", uri) for uri in uris] + list(_lines(file, request) if file else ())
    for place, uri in named:
        if dataset is None:
            raise ConfigError(f"{place}: {uri!r} is no media_id, so it is a URI; name its dataset with --dataset")
        request.uris.add((dataset, uri))
    if not request.media_ids and not request.uris:
        raise ConfigError("nothing to delete; give --media-id, --uri with --dataset, or --file")
    return request


def delete_pictures(request: Request, reason: str, *, yes: bool, dry_run: bool) -> int:
    """Show what goes, ask, and delete it; returns the exit code."""
    config = load_config(check_paths=False)  # what is stored can be deleted without its source
    lake = Lake(config.lake)
    datasets = {*config.datasets, *planned_datasets(lake)}
    if unknown := sorted({name for name, _ in request.uris} - datasets):
        raise ConfigError(
            f"--dataset: {config.file} has no dataset {unknown[0]!r}; give one of {', '.join(sorted(datasets))}"
        )
    planned = plan_deletion(lake, request.media_ids, request.uris)
    _show(planned)
    if dry_run:
        print("Nothing was deleted: this was a dry run.")
        return 0
    if not yes:
        click.confirm("Delete them for good?", abort=True)
    run_id = f"delete-{uuid.uuid4().hex[:12]}"
    erased = delete(
        lake, planned, reason, config.captions.contributor, run_id, lambda shard: print(f"{shard}: rewriting")
    )
    refresh(config, lake)
    print(f"Deleted {len(planned.rows)} media rows and {erased} rows of captions and caption failures.")
    for export in exports_of(lake, datasets_of(lake, planned.media_ids)):
        print(f"{export} may still hold them: make this export again")
    print("Dagster's event log may still show them: in the previews of earlier runs.")
    return 0


def _lines(file: Path, request: Request) -> Iterator[tuple[str, str]]:
    """The URIs of a list with their places; its media_ids go to the request."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file: {file} cannot be read: {error}; give a UTF-8 text file, one entry a line") from None
    for number, line in enumerate(map(str.strip, lines), 1):
        if _MEDIA_ID.fullmatch(line):
            request.media_ids.add(line)
        elif line:
            yield f"{file}:{number}", line


def _show(planned: PlannedDeletion) -> None:
    for row in planned.rows[:_SHOWN]:
        print(f"{row['shard']}  {row['media_id']}  {row['uri']}")  # no table: it would cut what is to be checked
    _more(len(planned.rows), "media rows")
    print(f"{len(planned.rows)} media rows, {planned.captions} caption rows")
    for each in planned.absent[:_SHOWN]:
        print(f"not in the lake now, and never to come: {each}")
    _more(len(planned.absent), "that are not in the lake")


def _more(count: int, what: str) -> None:
    if count > _SHOWN:
        print(f"... and {count - _SHOWN} more {what}")
