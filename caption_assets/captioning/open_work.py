"""What of the lake is open: rows that are missing or stale, failures worth another try, shards left unfinished; and
what was done today. All of it is asked of the views that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb

from caption_assets.captioning.asking import is_final
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.config import PipelineConfig
from caption_assets.lake.layout import Shard

MEDIA = "media"


@dataclass
class Open:
    """What one perspective, or `media`, has open in one shard."""

    missing: int = 0
    stale: int = 0
    repairable: int = 0
    """Pictures that failed for a reason that may pass, or that a run left unfinished."""
    unfinished: bool = False
    """Whether what is missing is what a run left."""
    why: str = ""
    seconds: float | None = None
    cost: float | None = None


@dataclass
class OpenShard:
    """A shard with something open, by perspective; `media` among them."""

    shard: Shard
    looks: dict[str, Open] = field(default_factory=dict)
    tried_at: datetime | None = None
    """When the latest of its failures happened."""


@dataclass
class Done:
    """What runs of one cause did today."""

    pictures: int = 0
    cost: float = 0.0
    by_perspective: dict[str, int] = field(default_factory=dict)
    by_run: dict[str, int] = field(default_factory=dict)
    """Pictures by run."""
    cost_by_run: dict[str, float] = field(default_factory=dict)


_MISSING = """
WITH mine AS (  -- of the present forms
    SELECT c.shard, c.perspective, sum(c.n) AS present
    FROM rows.caption_counts c JOIN perspectives p ON p.perspective = c.perspective AND p.fingerprint = c.fingerprint
    GROUP BY ALL
), touched AS (SELECT DISTINCT shard FROM rows.caption_counts),
young AS (SELECT shard FROM rows.media_counts WHERE made_at >= $before)
SELECT s.shard, s.perspective, coalesce(sum(n) FILTER (reason = 'missing'), 0)::BIGINT AS missing,
       coalesce(sum(n) FILTER (reason IN ('stale', 'inputs_changed')), 0)::BIGINT AS stale,
       string_agg(DISTINCT why, '; ' ORDER BY why) FILTER (reason IN ('stale', 'inputs_changed')) AS why,
       sum(n * seconds) AS seconds, sum(n * cost) AS cost,
       coalesce(any_value(present), 0)::BIGINT AS present,
       any_value(touched.shard) IS NULL AND any_value(young.shard) IS NULL AS abandoned
FROM rows.open_counts s LEFT JOIN mine ON mine.shard = s.shard AND mine.perspective = s.perspective
LEFT JOIN touched ON touched.shard = s.shard LEFT JOIN young ON young.shard = s.shard
WHERE reason <> 'failed' GROUP BY ALL
"""

_FAILED = """
SELECT shard, stage, kind, attempts, retryable, n, latest FROM rows.retry_counts
WHERE stage = 'media' OR stage IN (SELECT perspective FROM perspectives WHERE enabled)
"""

_WITHOUT_MEDIA = """
SELECT shard, planned - media - media_failures FROM shards
WHERE media + media_failures < planned AND planned_at < $before
"""

# Of runs that have not finished a shard, or never will, its rows are counted.
_DONE = """
WITH told AS (
    SELECT run_id, shard, coalesce(perspective, step) AS perspective,
           sum(done + CASE WHEN step = 'media' THEN 0 ELSE failed END) AS pictures, sum(cost) AS cost
    FROM runs WHERE cause = $cause AND ended_at >= $since GROUP BY ALL
), prices AS (
    SELECT perspective, sum(cost) / sum(done) AS cost FROM runs WHERE cost IS NOT NULL AND done > 0 GROUP BY ALL
), untold AS (
    SELECT run_id, shard, perspective, sum(n) AS pictures
    FROM rows.made_counts ANTI JOIN told USING (run_id, shard, perspective)
    WHERE list_contains($runs, run_id) AND day >= ($since AT TIME ZONE 'UTC')::DATE GROUP BY ALL
)
SELECT run_id, shard, perspective, pictures, cost FROM told
UNION ALL
SELECT run_id, shard, perspective, pictures, pictures * p.cost FROM untold LEFT JOIN prices p USING (perspective)
"""


def find_open(
    views: duckdb.DuckDBPyConnection, config: PipelineConfig, bound: Mapping[str, BoundPerspective], before: datetime
) -> dict[str, OpenShard]:
    """All that is open, by shard.

    Unfinished, and so repairable, is: a shard of a watched dataset that was planned but has no media, or has media but
    no caption at all; and a perspective that has rows of a shard, but not all.

    Args:
        views: those of kept counts.
        before: a shard that was planned, or whose media were made, since then may be in somebody's hands.
    """
    found: dict[str, OpenShard] = {}
    watched = {name for name, dataset in config.datasets.items() if dataset.watch}
    for shard, name, missing, stale, why, seconds, cost, present, abandoned in views.execute(
        _MISSING, {"before": before}
    ).fetchall():
        look = _look(found, shard, name)
        look.missing, look.stale, look.why, look.seconds, look.cost = missing, stale, why or "", seconds, cost
        if present or (abandoned and Shard.parse(shard).dataset in watched):
            look.repairable, look.unfinished = missing, missing > 0
    for shard, name, kind, attempts, retryable, pictures, at in views.execute(_FAILED).fetchall():
        if not (retryable if name == MEDIA else not is_final(kind, attempts, config.captions.max_attempts)):
            continue
        look = _look(found, shard, name)
        look.repairable += pictures
        each = found[shard]
        each.tried_at = max(at, each.tried_at or at)
    for shard, pictures in views.execute(_WITHOUT_MEDIA, {"before": before}).fetchall():
        if Shard.parse(shard).dataset in watched:
            _look(found, shard, MEDIA).repairable += pictures
    known = {MEDIA, *bound}
    return {key: each for key, each in sorted(found.items()) if known.intersection(each.looks)}


def _look(found: dict[str, OpenShard], shard: str, name: str) -> Open:
    return found.setdefault(shard, OpenShard(Shard.parse(shard))).looks.setdefault(name, Open())


def find_done(views: duckdb.DuckDBPyConnection, cause: str, since: datetime, runs: Sequence[str]) -> Done:
    """What runs of a cause did since a moment.

    Args:
        cause: as the `runs` table has it.
        since: a midnight in UTC, today's or yesterday's.
        runs: of these, the rows of shards that they have not finished count as well.
    """
    rows = views.execute(_DONE, {"cause": cause, "since": since, "runs": list(runs)}).fetchall()
    done, pictures = Done(), dict[tuple[str, str], int]()
    for run_id, shard, perspective, count, cost in rows:
        pictures[run_id, shard] = max(pictures.get((run_id, shard), 0), int(count))
        done.by_perspective[perspective] = done.by_perspective.get(perspective, 0) + int(count)
        done.cost_by_run[run_id] = done.cost_by_run.get(run_id, 0.0) + float(cost or 0.0)
    for (run_id, _), count in pictures.items():
        done.by_run[run_id] = done.by_run.get(run_id, 0) + count
    done.pictures, done.cost = sum(done.by_run.values()), sum(done.cost_by_run.values())
    return done
