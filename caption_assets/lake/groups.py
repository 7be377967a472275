"""Views that count: what the status, the sensors and the alerts go by, in groups a shard.

In the catalog they count the rows of the other views whenever they are asked. Where counts are kept, others of the same
names and columns stand in for them, and everything that is asked of them stays the same.
"""

from __future__ import annotations

GROUPS = (
    """CREATE VIEW rows.plan_counts AS
    SELECT p.dataset, p.shard, count(*) FILTER (a.uri IS NULL) AS planned, count(a.uri) AS departed,
           min(planned_at) AS planned_at
    FROM ({plans} ANTI JOIN rows.merged USING (shard)) p LEFT JOIN rows.away a USING (dataset, uri, etag)
    GROUP BY ALL""",
    """CREATE VIEW rows.media_counts AS
    SELECT shard, count(*) AS media, count(DISTINCT media_id) AS pictures, max(created_at) AS made_at
    FROM media GROUP BY ALL""",
    """CREATE VIEW rows.normalisation_counts AS
    SELECT shard, normalisation, count(*) AS n FROM media GROUP BY ALL""",
    # `pictures`: rows of pictures that the shard's index has
    """CREATE VIEW rows.caption_counts AS
    SELECT c.perspective, c.shard, c.fingerprint, count(*) AS n, count(m.media_id) AS pictures
    FROM caption_rows c LEFT JOIN (SELECT DISTINCT shard, media_id FROM media) m USING (shard, media_id)
    GROUP BY ALL""",
    """CREATE VIEW rows.open_counts AS
    SELECT perspective, dataset, shard, reason, fingerprint, why, count(*) AS n,
           any_value(seconds) AS seconds, any_value(cost) AS cost
    FROM stale GROUP BY ALL""",
    """CREATE VIEW rows.failure_counts AS
    SELECT stage, shard, fingerprint, kind, count(*) AS n FROM failures GROUP BY ALL""",
)
"""`plans`: the SELECT over the plans."""

MORE_GROUPS = (
    # A failure for want of an input is worth another try once all inputs are there.
    """CREATE VIEW rows.retry_counts AS
    WITH ready AS (
        SELECT w.perspective, c.shard, c.media_id
        FROM perspectives w JOIN perspectives i ON list_contains(w.inputs, i.perspective)
        JOIN caption_rows c ON c.perspective = i.perspective AND c.fingerprint = i.fingerprint
        WHERE w.enabled GROUP BY ALL HAVING count(*) = any_value(len(w.inputs))
    )
    SELECT f.stage, f.shard, f.fingerprint, f.kind, f.attempts, f.retryable, count(*) AS n, max(f.created_at) AS latest
    FROM failures f LEFT JOIN ready r ON r.perspective = f.stage AND r.shard = f.shard AND r.media_id = f.media_id
    WHERE f.kind <> 'input_missing' OR r.media_id IS NOT NULL
    GROUP BY ALL""",
    # Of runs, by the day in UTC; `fingerprint` is a failure's.
    """CREATE VIEW rows.made_counts AS
    SELECT run_id, shard, perspective, NULL AS fingerprint, (created_at AT TIME ZONE 'UTC')::DATE AS day,
           count(*) AS n
    FROM caption_rows WHERE reused_from IS NULL GROUP BY ALL
    UNION ALL
    SELECT run_id, shard, stage, fingerprint, (created_at AT TIME ZONE 'UTC')::DATE, count(*)
    FROM failures WHERE stage <> 'media' GROUP BY ALL""",
    """CREATE VIEW rows.last_failures AS
    SELECT dataset, shard, stage, fingerprint, coalesce(uri, media_id) AS picture, kind, message, created_at
    FROM failures WHERE kind <> 'deleted'""",
)
"""What only sensors ask for, and the command line; the catalog lacks it."""

SHARDS = """CREATE VIEW shards AS
    WITH failed AS (
        SELECT shard, sum(n) FILTER (stage = 'media') AS media_failures,
               sum(n) FILTER (stage <> 'media') AS caption_failures
        FROM rows.failure_counts GROUP BY ALL
    ), captioned AS (
        SELECT c.shard, sum(c.n) FILTER (c.fingerprint = s.fingerprint) AS captions
        FROM rows.caption_counts c JOIN rows.shown s USING (perspective) GROUP BY ALL
    )
    SELECT dataset, shard, planned, coalesce(media, 0) AS media, coalesce(pictures, 0) AS pictures,
           coalesce(media_failures, 0)::BIGINT AS media_failures, coalesce(captions, 0)::BIGINT AS captions,
           coalesce(caption_failures, 0)::BIGINT AS caption_failures, departed, planned_at
    FROM rows.plan_counts LEFT JOIN rows.media_counts USING (shard) LEFT JOIN failed USING (shard)
    LEFT JOIN captioned USING (shard)
    ORDER BY dataset, shard"""
