"""Counts shards: the catalog's own views, over the files of a few shards at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import duckdb
import pyarrow as pa

from caption_assets.counts.asked import Asked
from caption_assets.counts.files import SCHEMAS, FileReader, Holding
from caption_assets.lake import tables
from caption_assets.lake.groups import GROUPS, MORE_GROUPS
from caption_assets.lake.hidden import DEPARTED
from caption_assets.lake.store import Lake
from caption_assets.lake.views import FAILURES, STALE, VISIBLE_MEDIA, VISIBLE_ROWS, create_manifest

_ROWS = 50_000
"""Of captions, that are to be in memory at once."""
_FIRST, _MOST = 8, 128
"""Shards at once."""
_LONGEST_MESSAGE = 300
_SHOWN_FAILURES = 5
_KEYS = pa.schema([(name, pa.string()) for name in ("dataset", "uri", "etag")])
_BATCH = pa.schema(
    [
        ("dataset", pa.string()),
        ("number", pa.int64()),
        ("shard", pa.string()),
        ("low", pa.uint64()),
        ("high", pa.uint64()),
        ("terms", pa.string()),
        ("asked", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class ToCount:
    """A shard, and under what its counts are to be kept."""

    holding: Holding
    low: int
    high: int
    terms: str
    asked: Sequence[str]
    """The perspectives of which it has something of the wanted form, or failures."""

    def row(self) -> dict[str, object]:
        """As `_BATCH` has it."""
        shard = self.holding.shard
        keys = {"dataset": shard.dataset, "number": shard.number, "shard": shard.key}
        return {**keys, "low": self.low, "high": self.high, "terms": self.terms, "asked": [*self.asked]}


class Counter:
    """Counts under what is asked."""

    def __init__(self, lake: Lake, asked: Asked) -> None:
        self._asked = asked
        self._reader = FileReader(lake, asked.wanted)
        self._away: dict[str, list[dict[str, str]]] = {}
        for dataset, items in asked.away.items():
            for item in items:
                key = {"dataset": dataset, "uri": item.uri, "etag": item.etag}
                self._away.setdefault(item.shard, []).append(key)
        self._connection = duckdb.connect()
        self._connection.execute("SET enable_progress_bar = false")
        self._prepare()

    def close(self) -> None:
        """Let go of memory and threads."""
        self._connection.close()
        self._reader.close()

    def count(self, shards: Iterable[ToCount]) -> Iterator[pa.Table]:
        """A row for each shard, as `KeptCounts` keeps it, some shards at a time.

        Raises FileNotFoundError where the lake changes faster than it can be read.
        """
        at_once, left = _FIRST, iter(shards)
        while batch := list(islice(left, at_once)):
            files = self._reader.read([each.holding for each in batch])
            yield self._counted(files, batch)
            at_once = max(1, min(_ROWS * len(batch) // (files["stored"].num_rows + 1), _MOST, 2 * at_once))

    def nothing(self) -> pa.Schema:
        """The columns of a row."""
        return self._counted(_NOTHING, []).schema

    def _counted(self, files: Mapping[str, pa.Table], batch: Sequence[ToCount]) -> pa.Table:
        self._take(files, batch)
        return self._connection.sql(_COUNT).to_arrow_table()

    def _prepare(self) -> None:
        """Create the views, over nothing yet; what was merged is not counted, so nothing of it has to be hidden."""
        gone = self._asked.tombstones
        deleted = [{"media_id": media_id} for media_id in gone.media_ids]
        deleted += [{"dataset": dataset, "uri": uri} for dataset, uri in gone.uris]
        names = pa.schema([(name, pa.string()) for name in ("media_id", "dataset", "uri")])
        self._connection.execute("CREATE SCHEMA rows")
        create_manifest(self._connection, self._asked.wants, self._asked.current, self._asked.shown)
        self._table("tombstones", pa.Table.from_pylist(deleted, names))
        self._table("rows.deleted", pa.table({"media_id": pa.array(gone.media_ids, pa.string())}))
        self._table("rows.merged", pa.table({"shard": pa.array([], pa.string())}))
        self._table("runs", tables.RUNS.empty_table())
        self._take(_NOTHING, [])
        for statement in (FAILURES, STALE, *GROUPS, *MORE_GROUPS):
            self._connection.execute(statement.format(failures="FROM rows.failed", plans="FROM rows.plans"))

    def _take(self, files: Mapping[str, pa.Table], batch: Sequence[ToCount]) -> None:
        """Let the views be of these shards."""
        away = [key for each in batch for key in self._away.get(each.holding.shard.key, ())]
        for name, table in files.items():
            self._table(f"rows.{name}", table)
        self._table("rows.away", pa.Table.from_pylist(away, _KEYS))
        self._table("rows.batch", pa.Table.from_pylist([each.row() for each in batch], _BATCH))
        for statement in _VISIBLE:
            self._connection.execute(statement)

    def _table(self, name: str, table: pa.Table) -> None:
        self._connection.register("arrow", table)
        self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM arrow")
        self._connection.unregister("arrow")


_NOTHING = {name: schema.empty_table() for name, schema in SCHEMAS.items()}
_VISIBLE = (
    f"CREATE OR REPLACE TABLE media AS SELECT * FROM rows.indexes {VISIBLE_MEDIA}",
    DEPARTED.format(indexes="rows.indexes").replace("CREATE VIEW", "CREATE OR REPLACE TABLE", 1),
    f"""CREATE OR REPLACE TABLE caption_rows AS
    SELECT c.*, c.fingerprint = s.fingerprint AS is_current
    FROM rows.stored c LEFT JOIN (SELECT perspective AS name, fingerprint FROM rows.shown) s ON name = c.perspective
    {VISIBLE_ROWS}""",
)
"""What the views are of, as tables: it is asked for many times."""
_COUNT = f"""
WITH forms AS (
    SELECT shard, list(struct_pack(normalisation, n) ORDER BY normalisation) AS normalisations
    FROM rows.normalisation_counts GROUP BY shard
), captions AS (
    SELECT shard, list(struct_pack(perspective, fingerprint, n, pictures) ORDER BY perspective, fingerprint) AS captions
    FROM rows.caption_counts GROUP BY shard
), open AS (
    SELECT o.shard, list(struct_pack(
        perspective := o.perspective, wanted := p.fingerprint, reason := o.reason, fingerprint := o.fingerprint,
        why := o.why, n := o.n
    ) ORDER BY o.perspective) AS open
    FROM rows.open_counts o JOIN perspectives p USING (perspective) JOIN rows.batch b ON b.shard = o.shard
    WHERE list_contains(b.asked, o.perspective) GROUP BY ALL
), failed AS (
    SELECT shard, list(struct_pack(stage, fingerprint, kind, n) ORDER BY stage, kind) AS failures
    FROM rows.failure_counts GROUP BY shard
), retries AS (
    SELECT shard,
           list(struct_pack(stage, fingerprint, kind, attempts, retryable, n, latest) ORDER BY stage, kind) AS retries
    FROM rows.retry_counts GROUP BY shard
), made AS (
    SELECT shard, list(struct_pack(run_id, perspective, fingerprint, day, n) ORDER BY run_id, perspective) AS made
    FROM rows.made_counts WHERE day >= (now() AT TIME ZONE 'UTC')::DATE - 1 GROUP BY shard
), last AS (
    SELECT shard, list(struct_pack(
        stage, fingerprint, picture, kind, message := left(message, {_LONGEST_MESSAGE}), created_at
    ) ORDER BY created_at DESC) AS last
    FROM (
        FROM rows.last_failures
        QUALIFY row_number() OVER (PARTITION BY shard ORDER BY created_at DESC) <= {_SHOWN_FAILURES}
    )
    GROUP BY shard
), marks AS (
    SELECT shard, list(DISTINCT (hash(name) >> 32)::UINTEGER) AS marks FROM (
        SELECT shard, media_id AS name FROM rows.indexes
        UNION ALL SELECT shard, dataset || '|' || uri FROM rows.indexes
        UNION ALL SELECT shard, media_id FROM rows.stored
        UNION ALL SELECT shard, media_id FROM rows.failed WHERE media_id IS NOT NULL
    ) GROUP BY shard
)
SELECT b.dataset, b.number, b.shard, b.low, b.high, b.terms, p.planned, p.departed, p.planned_at,
       coalesce(m.media, 0) AS media, coalesce(m.pictures, 0) AS pictures, m.made_at,
       coalesce(normalisations, []) AS normalisations, coalesce(captions, []) AS captions,
       coalesce(open, []) AS open, coalesce(failures, []) AS failures,
       coalesce(retries, []) AS retries, coalesce(made, []) AS made, coalesce(last, []) AS last,
       coalesce(marks, []) AS marks
FROM rows.batch b LEFT JOIN rows.plan_counts p ON p.shard = b.shard LEFT JOIN rows.media_counts m ON m.shard = b.shard
LEFT JOIN forms ON forms.shard = b.shard
LEFT JOIN captions ON captions.shard = b.shard LEFT JOIN open ON open.shard = b.shard
LEFT JOIN failed ON failed.shard = b.shard LEFT JOIN retries ON retries.shard = b.shard
LEFT JOIN made ON made.shard = b.shard LEFT JOIN last ON last.shard = b.shard LEFT JOIN marks ON marks.shard = b.shard
"""
