"""`caption-assets`: check a pipeline file, see what is done, wait for a run, query, verify, delete."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from caption_assets.config import ConfigError


def _clear_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Say what is wrong with the pipeline file in one line, and exit 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Captions for a bucket of pictures, from several points of view."""


@main.command()
@click.option("--library", type=click.Path(path_type=Path), help="Lint just this folder of perspectives.")
@_clear_errors
def check(library: Path | None) -> None:
    """Validate pipeline file, perspectives, engines and lake access. Exits 1 on errors, 0 on warnings."""
    from caption_assets.commands.check import check_library, check_pipeline

    sys.exit(check_library(library) if library else check_pipeline())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch a line each time.")
@click.option("--watch", is_flag=True, help="Keep showing it, until Ctrl-C.")
@click.option("--shards", is_flag=True, help="Single shards, too, those with work or trouble first.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Rows that --shards shows.")
@click.option("--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds, for --watch.")
@_clear_errors
def status(as_json: bool, watch: bool, shards: bool, limit: int, every: float) -> None:
    """Show how far each dataset and perspective is: what runs, waits, is done, stale or failed."""
    from caption_assets.commands.status import show_status, watch_status

    wanted = limit if shards else 0
    if watch:
        watch_status(as_json=as_json, shards=wanted, every=every)
    else:
        show_status(as_json=as_json, shards=wanted)


@main.command()
@click.argument("run_id")
@click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds.")
def wait(run_id: str, timeout: float) -> None:
    """Wait for a Dagster run. Exits 0 (succeeded), 1 (failed or cancelled) or 2 (timeout, unknown run)."""
    from caption_assets.commands.wait import wait_for_run

    sys.exit(wait_for_run(run_id, timeout))


@main.command()
@click.argument("sql")
@click.option("--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@_clear_errors
def query(sql: str, style: str) -> None:
    """Run SQL over the lake's views: media, captions, captions_<perspective>, regions_<perspective>, stale, ..."""
    from caption_assets.commands.query import run_query

    sys.exit(run_query(sql, style))


@main.command()
@click.argument("names", nargs=-1, metavar="[DATASET | SHARD]...")
@_clear_errors
def verify(names: tuple[str, ...]) -> None:
    """Read every stored picture again and compare it with its checksum. Exits 1 when one is damaged."""
    from caption_assets.commands.verify import verify as run

    sys.exit(run(names))


@main.command()
@click.option("--media-id", "media_ids", multiple=True, help="A picture, wherever it is. May be repeated.")
@click.option("--uri", "uris", multiple=True, help="What a dataset has under a URI. May be repeated.")
@click.option("--dataset", help="The dataset of the URIs.")
@click.option("--file", type=click.Path(path_type=Path), help="A list: a media_id or a URI a line.")
@click.option("--reason", required=True, help="Why; it is kept with the tombstone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@_clear_errors
def delete(
    media_ids: tuple[str, ...],
    uris: tuple[str, ...],
    dataset: str | None,
    file: Path | None,
    reason: str,
    yes: bool,
    dry_run: bool,
) -> None:
    """Delete pictures and their captions for good: the same bytes never come back into the lake."""
    from caption_assets.commands.delete import delete_pictures, read_request

    sys.exit(delete_pictures(read_request(media_ids, uris, file, dataset), reason, yes=yes, dry_run=dry_run))


@main.command()
@click.argument("dataset", required=False)
@_clear_errors
def reconcile(dataset: str | None) -> None:
    """Compare source, plans, files and partitions; plan, register and mark what is safe. Exits 1 when work is left."""
    from caption_assets.commands.reconcile import reconcile_datasets

    sys.exit(reconcile_datasets(dataset))


@main.command("new-perspective")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("perspectives"), show_default=True)
@click.option("--region", is_flag=True, help="A perspective on regions, and one that draws their boxes.")
def new_perspective(name: str, folder: Path, region: bool) -> None:
    """Write a commented perspective file to start from."""
    from caption_assets.perspectives import write_new_perspective

    try:
        paths = write_new_perspective(name, folder, region=region)
    except (ValueError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    names = " and ".join(repr(path.stem) for path in paths)
    written, it = " and ".join(map(str, paths)), "them" if region else "it"
    click.echo(f"Wrote {written}. Edit {it}, then name {names} under perspectives.enabled of your pipeline file.")
