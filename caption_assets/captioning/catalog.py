"""The catalog as the pipeline file wants it: what it asks of each perspective, over what the lake holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import duckdb

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.captioning.forms import changes_since
from caption_assets.config import PipelineConfig, prices_of
from caption_assets.counts import views as counts
from caption_assets.lake.catalog import connect, refresh_catalog
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns
from caption_assets.lake.store import Lake
from caption_assets.media.normalise import normalisation_id
from caption_assets.perspectives import arrow_type

Bound = Mapping[str, BoundPerspective]


def refresh(config: PipelineConfig, lake: Lake, bound: Bound | None = None) -> None:
    """Bring `catalog.duckdb` up to date.

    Args:
        bound: the enabled perspectives, where they have been read already.
    """
    refresh_catalog(lake, _wants(config, lake, bound))


def open_views(
    config: PipelineConfig, bound: Bound | None = None, known: KnownRuns = NOTHING_KNOWN
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views over the lake as it is now.

    Args:
        bound: as for `refresh`.
        known: what Dagster knows of runs.
    """
    lake = Lake(config.lake)
    return connect(lake, _wants(config, lake, bound), known)


def open_counts(
    config: PipelineConfig,
    bound: Bound | None = None,
    known: KnownRuns = NOTHING_KNOWN,
    *,
    seconds: float = inf,
    tell: counts.Tell = counts.UNTOLD,
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views `shards`, `status`, `workers`, and those that count.

    It costs a listing of the lake, and the reading of what changed since the last time on this machine.

    Args:
        bound, known: as for `open_views`.
        seconds: after so long, counting ends.
        tell: called with how many shards are counted, of how many that are to be.

    Raises:
        StillCounting: more is to be counted than that.
    """
    lake = Lake(config.lake)
    return counts.connect(lake, _wants(config, lake, bound), known, seconds, tell)


def _wants(config: PipelineConfig, lake: Lake, bound: Bound | None) -> Wants:
    wanted = {
        name: Wanted(
            each.fingerprint,
            each.inputs,
            arrow_type(each.output),
            changes_since(lake, each),
            priced=prices_of(config.engines[each.engine]) is not None,
        )
        for name, each in (bound or bind_perspectives(config)).items()
    }
    retained = [name for name, dataset in config.datasets.items() if dataset.retain]
    return Wants(wanted, retained, normalisation_id(config.media))
