"""The views `workers` and `status`: how far every shard and stage is, from the lake's files and heartbeats alone.

Where a Dagster instance can be asked, what it knows of runs goes into two tables that are empty in the catalog:
`dagster.runs` (a row for each run, shard and stage) and `dagster.facts`. Then queued, cancelled and dead runs are seen,
too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from caption_assets.lake.heartbeats import LOST_AFTER_SECONDS, Beat
from caption_assets.lake.view_stack import ViewStack

RUNS_OF_DAGSTER = pa.schema(
    [
        ("run_id", pa.string()),
        ("shard", pa.string()),
        ("stage", pa.string()),
        ("status", pa.string()),  # queued, started, succeeded, failed, cancelled
        ("made_at", pa.float64()),  # when it was made: seconds since 1970
    ]
)


@dataclass(frozen=True)
class KnownRuns:
    """What an instance knows of runs."""

    rows: pa.Table = field(default_factory=RUNS_OF_DAGSTER.empty_table)
    """Of the schema `RUNS_OF_DAGSTER`: the latest runs of each shard and stage."""
    ended: frozenset[str] = frozenset()
    """Of the runs that have a heartbeat, those that are over."""
    workers_alive: bool = True
    """Whether anything would start a queued run."""
    asked: bool = False
    """Whether there was an instance to ask."""
    queued: int = 0
    oldest_queued: float | None = None
    """When the oldest queued run was made: seconds since 1970."""

    def queue(self) -> dict[str, Any]:
        """The queue as people and JSON have it; its numbers are null where nobody could be asked."""
        since = None if self.oldest_queued is None else max(time.time() - self.oldest_queued, 0.0)
        return {
            "asked": self.asked,
            "queued_runs": self.queued if self.asked else None,
            "oldest_seconds": since,
            "workers_alive": self.workers_alive if self.asked else None,
        }


NOTHING_KNOWN = KnownRuns()


def create_status_views(connection: duckdb.DuckDBPyConnection | ViewStack, files: str | None = None) -> None:
    """Create the views; `shards`, `perspectives`, the views that count, and what is known of runs are there.

    Args:
        files: the heartbeats' files, as an SQL string. They are read whenever the views are asked, which fails where a
            store's file is replaced under the reader's eyes. None: what they say was told.
    """
    if files is not None:
        connection.execute(_BEAT_FILES.format(files=files))
    for statement in _VIEWS:
        connection.execute(statement.format(lost_after=LOST_AFTER_SECONDS))


def tell_known(connection: duckdb.DuckDBPyConnection, known: KnownRuns) -> None:
    """Let the views know what Dagster knows of runs."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")
    connection.register("known_runs", known.rows)
    connection.execute("CREATE OR REPLACE TABLE dagster.runs AS FROM known_runs")
    connection.unregister("known_runs")
    connection.execute(
        "CREATE OR REPLACE TABLE dagster.facts AS SELECT ?::VARCHAR[] AS ended, ?::BOOLEAN AS workers_alive",
        [sorted(known.ended), known.workers_alive],
    )


def tell_beats(connection: duckdb.DuckDBPyConnection, beats: Sequence[Beat]) -> None:
    """Let the views know what heartbeats say, instead of their files."""
    connection.execute("DROP VIEW IF EXISTS rows.beat_files")
    connection.register("beats", pa.Table.from_pylist([_row(beat) for beat in beats], _BEATS))
    connection.execute("CREATE TABLE rows.beat_files AS FROM beats")
    connection.unregister("beats")


def _row(beat: Beat) -> dict[str, Any]:
    looks = [{**asdict(look), "failure_kinds": list(look.failure_kinds.items())} for look in beat.looks]
    return {**asdict(beat), "looks": looks}


_LOOK = pa.struct(
    [
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("stage", pa.string()),
        ("fingerprint", pa.string()),
        ("total", pa.int64()),
        ("done", pa.int64()),
        ("failed", pa.int64()),
        ("failure_kinds", pa.map_(pa.string(), pa.int64())),
        ("rate", pa.float64()),
    ]
)
_BEATS = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.string()),
        ("worker", pa.string()),
        ("started", pa.float64()),
        ("beat", pa.float64()),
        ("state", pa.string()),
        ("error", pa.string()),
        ("waiting", pa.list_(pa.string())),
        ("stages", pa.list_(pa.struct([("stage", pa.string()), ("fingerprint", pa.string())]))),
        ("looks", pa.list_(_LOOK)),
    ]
)
_BEAT_FILES = """CREATE VIEW rows.beat_files AS
FROM read_json({files}, format = 'newline_delimited', columns = {{
    run_id: 'VARCHAR', step: 'VARCHAR', worker: 'VARCHAR', started: 'DOUBLE', beat: 'DOUBLE', state: 'VARCHAR',
    error: 'VARCHAR', waiting: 'VARCHAR[]', stages: 'STRUCT(stage VARCHAR, fingerprint VARCHAR)[]',
    looks: 'STRUCT(dataset VARCHAR, shard VARCHAR, stage VARCHAR, fingerprint VARCHAR, total BIGINT, done BIGINT,
        failed BIGINT, failure_kinds MAP(VARCHAR, BIGINT), rate DOUBLE)[]'
}})"""

_VIEWS = (
    # A worker's state is its own word, unless it has been silent for too long, or Dagster knows that its run is over.
    """CREATE VIEW rows.beats AS
    SELECT * REPLACE (
        CASE WHEN state = 'running' AND (
                epoch(now()) - beat > {lost_after} OR list_contains((SELECT ended FROM dagster.facts), run_id)
             ) THEN 'lost' ELSE state END AS state
    ) FROM rows.beat_files""",
    """CREATE VIEW workers AS
    SELECT worker, run_id, step, state, error, len(waiting) AS shards_waiting,
           list_distinct(list_transform(looks, lambda l: l.shard)) AS shards,
           coalesce(list_sum(list_transform(looks, lambda l: l.total)), 0)::BIGINT AS total,
           coalesce(list_sum(list_transform(looks, lambda l: l.done)), 0)::BIGINT AS done,
           coalesce(list_sum(list_transform(looks, lambda l: l.failed)), 0)::BIGINT AS failed,
           coalesce(list_sum(list_transform(looks, lambda l: l.rate)), 0) AS rate,
           make_timestamp((started * 1e6)::BIGINT) AS started_at, make_timestamp((beat * 1e6)::BIGINT) AS last_beat
    FROM rows.beats ORDER BY started""",
    """CREATE VIEW rows.looks AS
    SELECT * FROM (
        SELECT run_id, worker, state, error, beat, true AS begun, look.shard, look.stage, look.fingerprint,
               look.total, look.done, look.failed, look.failure_kinds, look.rate
        FROM (SELECT *, unnest(looks) AS look FROM rows.beats)
        UNION ALL BY NAME
        SELECT run_id, worker, state, error, beat, false AS begun, shard, each.stage, each.fingerprint
        FROM (SELECT *, unnest(stages) AS each FROM (SELECT *, unnest(waiting) AS shard FROM rows.beats))
    ) QUALIFY row_number() OVER (
        PARTITION BY shard, stage ORDER BY state = 'running' DESC, begun DESC, beat DESC
    ) = 1""",
    """CREATE VIEW rows.counts AS
    WITH every AS MATERIALIZED (FROM shards), failure_counts AS MATERIALIZED (FROM rows.failure_counts), kinds AS (
        SELECT shard, stage, map_from_entries(list((kind, n))) AS kinds FROM (
            SELECT shard, stage, kind, sum(n)::BIGINT AS n FROM failure_counts WHERE kind <> 'deleted' GROUP BY ALL
        ) GROUP BY ALL
    ), deleted AS (
        SELECT shard, sum(n)::BIGINT AS n FROM failure_counts WHERE stage = 'media' AND kind = 'deleted'
        GROUP BY ALL
    ), open AS (
        SELECT perspective, shard, sum(n) FILTER (reason = 'missing') AS missing,
               sum(n) FILTER (reason IN ('stale', 'inputs_changed')) AS stale,
               sum(n) FILTER (reason = 'failed') AS failed,
               string_agg(DISTINCT why, '; ' ORDER BY why) FILTER (reason IN ('stale', 'inputs_changed')) AS why,
               sum(n * seconds) AS seconds, sum(n * cost) AS cost
        FROM rows.open_counts GROUP BY ALL
    ), outdated AS (
        SELECT n.shard, sum(n.n)::BIGINT AS n, 'normalised as '
               || string_agg(DISTINCT n.normalisation, ', ' ORDER BY n.normalisation) || ', now '
               || any_value(f.normalisation) AS why
        FROM rows.normalisation_counts n JOIN rows.media_form f ON n.normalisation <> f.normalisation GROUP BY n.shard
    ), counts AS (
        SELECT s.dataset, s.shard, 'media' AS stage, NULL AS fingerprint, true AS has_media,
               s.planned - coalesce(d.n, 0) AS total, s.media - coalesce(u.n, 0) AS done,
               greatest(s.planned - s.media - s.media_failures, 0) AS missing, coalesce(u.n, 0) AS stale,
               s.media_failures - coalesce(d.n, 0) AS failed, u.why, NULL AS seconds, NULL AS cost
        FROM every s LEFT JOIN deleted d USING (shard) LEFT JOIN outdated u USING (shard)
        UNION ALL
        SELECT s.dataset, s.shard, w.perspective, w.fingerprint, s.media + s.media_failures >= s.planned,
               s.pictures, (s.pictures - coalesce(o.missing, 0) - coalesce(o.stale, 0) - coalesce(o.failed, 0))::BIGINT,
               coalesce(o.missing, 0)::BIGINT, coalesce(o.stale, 0)::BIGINT, coalesce(o.failed, 0)::BIGINT,
               o.why, o.seconds, o.cost
        FROM every s CROSS JOIN (SELECT perspective, fingerprint FROM perspectives WHERE fingerprint IS NOT NULL) w
        LEFT JOIN open o ON o.shard = s.shard AND o.perspective = w.perspective
    )
    SELECT c.*, has_media AND missing + stale = 0 AS complete, k.kinds
    FROM counts c LEFT JOIN kinds k USING (shard, stage)""",
    # While a stage is being worked on its worker's numbers count: they are ahead of the files.
    """CREATE VIEW status AS
    WITH dagster_runs AS (
        SELECT * FROM dagster.runs QUALIFY row_number() OVER (
            PARTITION BY shard, stage ORDER BY status IN ('queued', 'started') DESC, made_at DESC
        ) = 1
    ), entries AS (
        SELECT c.*, l.run_id, l.worker, l.error, l.state AS look_state, l.begun, l.rate, l.beat,
               l.total AS live_total, l.done AS live_done, l.failed AS live_failed, l.failure_kinds AS live_kinds,
               d.status AS run_status, d.run_id AS dagster_run,
               coalesce(l.state = 'running' AND l.begun AND NOT (c.complete AND l.done + l.failed >= l.total), false)
                   AS live
        FROM rows.counts c
        LEFT JOIN rows.looks l ON l.shard = c.shard AND l.stage = c.stage
            AND l.fingerprint IS NOT DISTINCT FROM c.fingerprint
        LEFT JOIN dagster_runs d ON d.shard = c.shard AND d.stage = c.stage
    )
    SELECT dataset, shard, stage AS perspective,
           CASE WHEN live THEN 'running'
                WHEN complete THEN CASE WHEN failed > 0 THEN 'done with errors' ELSE 'done' END
                WHEN run_status = 'queued' THEN
                    CASE WHEN (SELECT workers_alive FROM dagster.facts) THEN 'queued' ELSE 'queued, no worker' END
                WHEN look_state = 'running' OR (run_status = 'started' AND run_id IS DISTINCT FROM dagster_run)
                    THEN 'queued'
                WHEN look_state IS NOT NULL AND run_status IN ('failed', 'cancelled') AND run_id = dagster_run
                    THEN run_status
                WHEN look_state IS NOT NULL THEN look_state
                WHEN run_status IN ('failed', 'cancelled') THEN run_status
                WHEN missing = 0 AND stale > 0 THEN 'stale'
                ELSE 'pending' END AS state,
           CASE WHEN live THEN live_total ELSE total END AS total,
           CASE WHEN live THEN live_done ELSE done END AS done,
           CASE WHEN live THEN live_failed ELSE failed END AS failed,
           CASE WHEN live THEN greatest(live_total - live_done - live_failed - stale, 0) ELSE missing END AS missing,
           CASE WHEN live THEN least(stale, live_total - live_done - live_failed) ELSE stale END AS stale,
           CASE WHEN live THEN live_kinds ELSE kinds END AS failure_kinds,
           CASE WHEN live THEN rate END AS rate,
           CASE WHEN live AND rate > 0 THEN (live_total - live_done - live_failed) / rate END AS seconds_to_go,
           CASE WHEN complete AND NOT live THEN NULL ELSE coalesce(run_id, dagster_run) END AS run_id,
           CASE WHEN live OR (look_state IS NOT NULL AND NOT complete) THEN worker END AS worker,
           CASE WHEN NOT complete THEN error END AS error, why, seconds AS redo_seconds, cost AS redo_cost
    FROM entries ORDER BY dataset, shard, perspective""",
)
