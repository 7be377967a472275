"""The catalog's views, in SQL. They hold no data: each reads the lake's files whenever it is asked.

`captions_<perspective>` shows, per picture, the row of the current form, or the latest earlier one (`is_current` false)
until the current one is there. What a perspective said that is not enabled any more stays: in its own view, and in
`captions` with `enabled` false. `regions_<perspective>` shows the same a row a region, where a perspective has regions.
A picture that stands in several shards has rows in each: `rows.<perspective>` and `caption_rows` show one per picture
and shard, which is what `stale` and `shards` go by, as the runs do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.definition import Definition, Wants
from caption_assets.lake.groups import GROUPS, SHARDS
from caption_assets.lake.hidden import create_hidden
from caption_assets.lake.sql_files import SqlFiles
from caption_assets.lake.status import NOTHING_KNOWN, create_status_views, tell_known
from caption_assets.lake.view_stack import ViewStack


def create_views(database: duckdb.DuckDBPyConnection, definition: Definition, files: SqlFiles) -> None:
    """Create the manifest and all views in an empty database. The definition has at least one perspective."""
    shown, connection = definition.shown, ViewStack(database)
    connection.execute("CREATE SCHEMA rows")
    create_manifest(database, definition.wants, definition.current, shown)
    connection.execute(f"CREATE VIEW runs AS {files.rows('runs/*/*.parquet', tables.RUNS, _RUNS_SINCE)}")
    found = files.rows(f"{layout.RECONCILIATIONS}/*/*.parquet", tables.RECONCILIATIONS)
    connection.execute(f"CREATE VIEW reconciliations AS {found}")
    create_hidden(connection, definition.wants.retained, definition.departed, files)
    _create_media_view(connection, files)
    for name, fingerprints in definition.forms.items():
        _create_captions_view(connection, files, name, fingerprints, shown[name])
    _create_unions(connection, list(definition.forms), definition.wants.perspectives)
    rows = {
        "failures": files.rows("failures/*/*/*.parquet", tables.FAILURES, _FAILURES_SINCE),
        "plans": files.rows("shards/*/*.parquet", tables.PLAN),
        "pairs": files.rows("duplicates/*.parquet", tables.NEAR_DUPLICATES),
    }
    for statement in (FAILURES, _CONTRIBUTORS, STALE, *GROUPS, SHARDS, _NEAR_DUPLICATES):
        connection.execute(statement.format(**rows))
    tell_known(database, NOTHING_KNOWN)
    create_status_views(connection, files.location(f"{layout.RUNNING}/*.json"))
    connection.finish()


def create_manifest(
    connection: duckdb.DuckDBPyConnection, wants: Wants, current: Mapping[str, str], shown: Mapping[str, str]
) -> None:
    """The tables `perspectives`, `changes`, `rows.shown`, `rows.media_form`. `shown`: as `shown_of` has it."""
    wanted = wants.perspectives
    connection.execute(
        """CREATE TABLE perspectives
        (perspective VARCHAR, fingerprint VARCHAR, current VARCHAR, inputs VARCHAR[], enabled BOOLEAN,
        priced BOOLEAN)"""
    )
    for name in sorted(set(wanted) | set(shown)):
        asked = wanted.get(name)
        connection.execute(
            "INSERT INTO perspectives VALUES (?, ?, ?, ?, ?, ?)",
            [
                name,
                asked.fingerprint if asked else None,
                current.get(name),
                list(asked.inputs) if asked else None,
                asked is not None,
                asked.priced if asked else None,
            ],
        )
    connection.execute("CREATE TABLE rows.shown (perspective VARCHAR, fingerprint VARCHAR)")
    for each in shown.items():
        connection.execute("INSERT INTO rows.shown VALUES (?, ?)", each)
    connection.execute("CREATE TABLE changes (perspective VARCHAR, fingerprint VARCHAR, changes VARCHAR)")
    for name, asked in wanted.items():
        for earlier, lines in asked.changes.items():
            connection.execute("INSERT INTO changes VALUES (?, ?, ?)", [name, earlier, ", ".join(lines)])
    connection.execute("CREATE TABLE rows.media_form AS SELECT ?::VARCHAR AS normalisation", [wants.normalisation])


_SINCE = "SELECT CAST(NULL AS VARCHAR) AS source_digest WHERE false"
_FAILURES_SINCE = "SELECT CAST(NULL AS VARCHAR) AS input_digest WHERE false"
_RUNS_SINCE = "SELECT CAST(NULL AS VARCHAR) AS cause WHERE false"
"""Columns that files of earlier releases lack."""
VISIBLE_MEDIA = """ANTI JOIN rows.deleted USING (media_id)
    ANTI JOIN (SELECT dataset, uri FROM tombstones WHERE media_id IS NULL) USING (dataset, uri)
    ANTI JOIN rows.away USING (dataset, uri, etag) ANTI JOIN rows.merged USING (shard)"""
VISIBLE_ROWS = """ANTI JOIN rows.deleted USING (media_id)
    ANTI JOIN rows.departed USING (media_id, shard) ANTI JOIN rows.merged USING (shard)
    QUALIFY row_number() OVER (
        PARTITION BY perspective, media_id, shard ORDER BY is_current DESC, created_at DESC
    ) = 1"""
"""What of all rows that are stored is shown: one of a perspective a picture and shard."""
_REGION = frozenset({"index", "box", "box_pixels"})
_OF_THE_PICTURE = frozenset(
    {"input_digest", "source_digest", "output_digest", "finish_reason", "prompt_tokens", "cached_tokens"}
    | {"completion_tokens", "attempts", "seconds", "reused_from"}
)
"""Columns that would count as often as a picture has regions."""


def _create_media_view(connection: ViewStack, files: SqlFiles) -> None:
    """`tombstones`, and `media` without what they name: what was deleted is gone from all views at once."""
    tombstones = files.rows(f"{layout.TOMBSTONES}/*.parquet", tables.TOMBSTONES)
    connection.execute(f"CREATE VIEW tombstones AS {tombstones}")
    connection.execute("CREATE VIEW rows.deleted AS SELECT media_id FROM tombstones WHERE media_id IS NOT NULL")
    media = files.rows("media/*/*.parquet", tables.MEDIA)
    connection.execute(f"CREATE VIEW media AS SELECT * FROM ({media}) {VISIBLE_MEDIA}")


def _create_captions_view(
    connection: ViewStack, files: SqlFiles, name: str, fingerprints: Sequence[str], shown: str
) -> None:
    """The typed views of one perspective: all forms, converted to the shown one's type."""
    schema = tables.captions_schema(pa.null())
    patterns = {each: f"{layout.fingerprint_folder(name, each)}/*/*/*.parquet" for each in fingerprints}
    output = connection.execute(files.rows(patterns[shown], schema, columns=["output"])).description[0][1]
    converted = f"TRY_CAST(CAST(to_json(output) AS JSON) AS {output}) AS output"
    others = [f'"{column}"' if column != "output" else converted for column in schema.names]
    selects = [files.rows(patterns[shown], schema, _SINCE)]
    selects += [files.rows(pattern, schema, _SINCE, others) for each, pattern in patterns.items() if each != shown]
    fields = [field for field, _ in output.children] if output.id == "struct" else []
    taken = {*tables.META_COLUMNS, "output", "is_current"}
    flat = "".join(f', output."{field}" AS "{field}"' for field in fields if field.lower() not in taken)
    connection.execute(
        f"""CREATE VIEW rows."{name}" AS
        SELECT *, fingerprint = '{shown}' AS is_current{flat}
        FROM ({" UNION ALL ".join(selects)}) {VISIBLE_ROWS}"""
    )
    connection.execute(  # what was paid for rather than its copies, so that `contributors` counts it
        f"""CREATE VIEW "captions_{name}" AS SELECT * FROM rows."{name}"
        QUALIFY row_number() OVER (
            PARTITION BY media_id ORDER BY is_current DESC, reused_from IS NULL DESC, created_at DESC
        ) = 1"""
    )
    _create_regions_view(connection, name, output)


def _create_regions_view(connection: ViewStack, name: str, output: Any) -> None:
    """Of a perspective on regions, told by the type of its rows: a row a region, in the picture's order."""
    lists = dict(output.children) if output.id == "struct" else {}
    if "regions" not in lists or lists["regions"].id != "list":
        return
    region = lists["regions"].children[0][1]
    fields = [field for field, _ in region.children] if region.id == "struct" else []
    if not _REGION.issubset(fields):
        return
    columns = [column for column in tables.META_COLUMNS if column not in _OF_THE_PICTURE]
    taken = {*columns, "is_current", "region"}
    flat = "".join(f', region."{field}" AS "{field}"' for field in fields if field.lower() not in taken)
    connection.execute(
        f"""CREATE VIEW "regions_{name}" AS
        SELECT {", ".join(columns)}, is_current{flat}, region
        FROM (SELECT *, unnest(output."regions") AS region FROM "captions_{name}")"""
    )


def _create_unions(connection: ViewStack, names: list[str], enabled: Collection[str]) -> None:
    """`captions` over all perspectives' views, and `caption_rows` over those of all shards, without the outputs."""
    columns = ", ".join(tables.META_COLUMNS)
    captions = [
        f"SELECT {columns}, is_current, {name in enabled} AS enabled, CAST(to_json(output) AS JSON) AS output "
        f'FROM "captions_{name}"'
        for name in sorted(names)
    ]
    rows = [f'SELECT {columns}, is_current FROM rows."{name}"' for name in sorted(names)]
    connection.execute(f"CREATE VIEW captions AS {' UNION ALL '.join(captions)}")
    connection.execute(f"CREATE VIEW caption_rows AS {' UNION ALL '.join(rows)}")


# Only failures that still stand: of the present form, of pictures without a caption.
FAILURES = """CREATE VIEW failures AS
    SELECT f.* FROM ({failures}) f ANTI JOIN rows.merged USING (shard)
    WHERE f.stage = 'media' AND NOT EXISTS (
        SELECT 1 FROM rows.away a WHERE a.dataset = f.dataset AND a.uri = f.uri AND a.etag = f.etag
    ) OR EXISTS (
        SELECT 1 FROM perspectives p
        WHERE p.perspective = f.stage AND f.fingerprint = coalesce(p.fingerprint, p.current)
    ) AND NOT EXISTS (
        SELECT 1 FROM rows.deleted d WHERE d.media_id = f.media_id
    ) AND NOT EXISTS (
        SELECT 1 FROM rows.departed d WHERE d.media_id = f.media_id AND d.shard = f.shard
    ) AND NOT EXISTS (
        SELECT 1 FROM caption_rows c WHERE c.perspective = f.stage AND c.shard = f.shard AND c.media_id = f.media_id
        AND c.fingerprint = f.fingerprint
    )"""
_CONTRIBUTORS = """CREATE VIEW contributors AS
    SELECT contributor, perspective, model, count(*) AS captions, sum(completion_tokens) AS completion_tokens,
           min(created_at) AS first_at, max(created_at) AS last_at
    FROM captions WHERE reused_from IS NULL GROUP BY ALL ORDER BY captions DESC"""
STALE = """CREATE VIEW stale AS
    WITH wanted AS (SELECT perspective, fingerprint, inputs, priced FROM perspectives WHERE fingerprint IS NOT NULL),
    pictures AS (SELECT DISTINCT media_id, dataset, shard FROM media),
    reads AS (
        SELECT w.perspective, c.shard, c.media_id,
               sha256(string_agg(c.perspective || '=' || c.output_digest, ',' ORDER BY c.perspective)) AS digest,
               count(*) = any_value(len(w.inputs)) AS has_all
        FROM wanted w JOIN caption_rows c ON list_contains(w.inputs, c.perspective)
        GROUP BY ALL
    ), failed AS (  -- a settled failure stands for what was read, and not for what there is to read now
        SELECT f.stage, f.shard, f.media_id, f.fingerprint, any_value(f.kind) AS kind,
               NOT bool_or(coalesce(f.retryable, true)) AND bool_and(coalesce(r.has_all, false))
                   AND bool_and(f.input_digest IS DISTINCT FROM r.digest) AS changed
        FROM failures f
        LEFT JOIN reads r ON r.perspective = f.stage AND r.shard = f.shard AND r.media_id = f.media_id
        GROUP BY ALL
    ), latest AS (  -- perspectives of a shard are captioned side by side: its seconds are shared by all their captions
        SELECT *, sum(done) OVER (PARTITION BY run_id, shard) AS captions FROM runs
        WHERE step = 'captions' AND done > 0
        QUALIFY row_number() OVER (PARTITION BY perspective ORDER BY ended_at DESC) <= 50
    ), rates AS (
        SELECT perspective, sum(seconds * done / captions) / sum(done) AS seconds,
               sum(cost) / sum(done) FILTER (cost IS NOT NULL) AS cost
        FROM latest GROUP BY perspective
    ), usual AS (SELECT avg(seconds) AS seconds, avg(cost) AS cost FROM rates)
    SELECT w.perspective, p.dataset, p.shard, p.media_id,
           CASE WHEN f.changed THEN 'inputs_changed'
                WHEN f.media_id IS NOT NULL THEN 'failed'
                WHEN c.media_id IS NULL THEN 'missing'
                WHEN c.fingerprint <> w.fingerprint THEN 'stale'
                ELSE 'inputs_changed' END AS reason,
           CASE WHEN NOT f.changed THEN f.kind
                WHEN f.media_id IS NULL AND c.media_id IS NULL THEN NULL
                WHEN f.media_id IS NULL AND c.fingerprint <> w.fingerprint THEN coalesce(h.changes, 'an earlier form')
                ELSE 'another output of ' || list_aggregate(w.inputs, 'string_agg', ' or ') END AS why,
           c.fingerprint AS fingerprint, w.fingerprint AS wanted,
           coalesce(t.seconds, usual.seconds) AS seconds,
           CASE WHEN w.priced THEN coalesce(t.cost, usual.cost) END AS cost
    FROM wanted w CROSS JOIN pictures p CROSS JOIN usual
    LEFT JOIN caption_rows c ON c.perspective = w.perspective AND c.shard = p.shard AND c.media_id = p.media_id
    LEFT JOIN reads r ON r.perspective = w.perspective AND r.shard = p.shard AND r.media_id = p.media_id
    LEFT JOIN failed f ON f.stage = w.perspective AND f.shard = p.shard AND f.media_id = p.media_id
        AND f.fingerprint = w.fingerprint
    LEFT JOIN changes h ON h.perspective = w.perspective AND h.fingerprint = c.fingerprint
    LEFT JOIN rates t ON t.perspective = w.perspective
    WHERE f.media_id IS NOT NULL OR c.media_id IS NULL OR c.fingerprint <> w.fingerprint
       OR (r.has_all AND c.input_digest IS NOT NULL AND c.input_digest <> r.digest)"""
# Stored are pairs of hashes; a crowd of pictures with one hash becomes pairs only when somebody asks for them.
# The last condition names all three tables, lest DuckDB compare every picture with every other before it joins.
_NEAR_DUPLICATES = """CREATE VIEW near_duplicates AS
    WITH pictures AS MATERIALIZED (
        SELECT media_id, phash, dataset, shard, uri FROM media WHERE phash IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY media_id ORDER BY created_at DESC, shard, uri) = 1
    ), near AS (
        SELECT phash_a, phash_b, distance FROM ({pairs})
        UNION ALL SELECT phash_b, phash_a, distance FROM ({pairs})
        UNION ALL SELECT phash, phash, 0 FROM pictures GROUP BY phash
    )
    SELECT a.media_id AS media_id_a, b.media_id AS media_id_b, near.distance,
           a.dataset AS dataset_a, a.shard AS shard_a, a.uri AS uri_a,
           b.dataset AS dataset_b, b.shard AS shard_b, b.uri AS uri_b
    FROM near JOIN pictures a ON a.phash = near.phash_a JOIN pictures b ON b.phash = near.phash_b
    WHERE (a.media_id < b.media_id) = (near.distance >= 0)"""
