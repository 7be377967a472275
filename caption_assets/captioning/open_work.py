"""What of the lake is open: rows that are missing or stale, failures worth another try, shards left unfinished; and
what was done today. All of it is asked of the catalog's views."""

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
    SELECT c.shard, c.perspective, count(*) AS present
    FROM caption_rows c JOIN perspectives p ON p.perspective = c.perspective AND p.fingerprint = c.fingerprint
    GROUP BY ALL
), touched AS (SELECT DISTINCT shard FROM caption_rows),
young AS (SELECT shard FROM media GROUP BY shard HAVING max(created_at) >= $before)
SELECT s.shard, s.perspective, count(*) FILTER (reason = 'missing') AS missing,
       count(*) FILTER (reason IN ('stale', 'inputs_changed')) AS stale,
       string_agg(DISTINCT why, '; ' ORDER BY why) FILTER (reason IN ('stale', 'inputs_changed')) AS why,
       sum(seconds) AS seconds, sum(cost) AS cost,
       coalesce(any_value(present), 0) AS present,
       any_value(touched.shard) IS NULL AND any_value(young.shard) IS NULL AS abandoned
FROM stale s LEFT JOIN mine ON mine.shard = s.shard AND mine.perspective = s.perspective
LEFT JOIN touched ON touched.shard = s.shard LEFT JOIN young ON young.shard = s.shard
WHERE reason <> 'failed' GROUP BY ALL
"""

# A failure for want of an input is worth another try once all inputs are there.
_FAILED = """
WITH ready AS (
    SELECT w.perspective, c.shard, c.media_id
    FROM perspectives w JOIN perspectives i ON list_contains(w.inputs, i.perspective)
    JOIN caption_rows c ON c.perspective = i.perspective AND c.fingerprint = i.fingerprint
    WHERE w.enabled GROUP BY ALL HAVING count(*) = any_value(len(w.inputs))
)
SELECT f.shard, f.stage, f.kind, f.attempts, f.retryable, count(*) AS pictures, max(f.created_at) AS at
FROM failures f LEFT JOIN ready r ON r.perspective = f.stage AND r.shard = f.shard AND r.media_id = f.media_id
WHERE (f.stage = 'media' OR f.stage IN (SELECT perspective FROM perspectives WHERE enabled))
  AND (f.kind <> 'input_missing' OR r.media_id IS NOT NULL)
GROUP BY ALL
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
), rows_ AS (
    SELECT run_id, shard, perspective FROM caption_rows WHERE created_at >= $since AND reused_from IS NULL
    UNION ALL
    SELECT run_id, shard, stage FROM failures WHERE created_at >= $since AND stage <> 'media'
), untold AS (
    SELECT run_id, shard, perspective, count(*) AS pictures
    FROM rows_ ANTI JOIN told USING (run_id, shard, perspective)
    WHERE list_contains($runs, run_id) GROUP BY ALL
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
