"""The catalog: DuckDB views over the lake, and a small manifest of perspectives. It holds no data of its own.

Every table's glob also matches a zero-row file, so that no view fails on an empty lake. `captions_<perspective>` shows,
per picture, the row of the current form, or the latest earlier one (`is_current` false) until the current one is there.
What a perspective said that is not enabled any more stays: in its own view, and in `captions` with `enabled` false.
`regions_<perspective>` shows the same a row a region, where a perspective is on regions.
A picture that stands in several shards has rows in each: `rows.<perspective>` and `caption_rows` show one per picture
and shard, which is what `stale` and `shards` go by, as the runs do.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.current import read_current
from caption_assets.lake.groups import GROUPS, SHARDS
from caption_assets.lake.heartbeats import Beat, read_beats
from caption_assets.lake.hidden import create_hidden
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns, create_status_views
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.vanishing import again_when_sealed

_MAX_SPILL = "16GB"
"""What a query may put on disk when it does not fit into memory; beyond that it fails, and the disk does not fill."""


@dataclass(frozen=True)
class Wanted:
    """What the pipeline file asks of a perspective now."""

    fingerprint: str
    inputs: tuple[str, ...]
    output: pa.DataType
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What is different now from earlier forms, by their fingerprints."""


def ensure_tables(lake: Lake, wanted: Mapping[str, Wanted]) -> None:
    """Put the zero-row files in place."""
    empty = {
        f"shards/{layout.EMPTY}": tables.PLAN,
        f"media/{layout.EMPTY}": tables.MEDIA,
        f"failures/stage=_/{layout.EMPTY}": tables.FAILURES,
        "runs/_/empty.parquet": tables.RUNS,
        layout.NO_NEAR_DUPLICATES: tables.NEAR_DUPLICATES,
        f"{layout.TOMBSTONES}/empty.parquet": tables.TOMBSTONES,
        f"{layout.DEPARTURES}/{layout.EMPTY}": tables.DEPARTURES,
        f"{layout.MERGES}/{layout.EMPTY}": tables.MERGES,
        f"{layout.RECONCILIATIONS}/_/empty.parquet": tables.RECONCILIATIONS,
    }
    if not lake.exists(f"{layout.RUNNING}/{layout.NO_HEARTBEAT}"):
        lake.write(f"{layout.RUNNING}/{layout.NO_HEARTBEAT}", b"")
    for name, each in wanted.items():
        folder = layout.fingerprint_folder(name, each.fingerprint)
        empty[f"{folder}/dataset=_/shard=_/empty.parquet"] = tables.captions_schema(each.output)
    for path, schema in empty.items():
        if not lake.exists(path):
            lake.write(path, table_bytes(schema.empty_table()))


@again_when_sealed()
def refresh_catalog(lake: Lake, wanted: Mapping[str, Wanted], retained: Collection[str] = ()) -> None:
    """Build `catalog.duckdb` beside and put it in place, atomically. `retained`: as `create_views` has it."""
    ensure_tables(lake, wanted)
    with tempfile.TemporaryDirectory(prefix="caption-assets-") as folder:
        built = Path(folder) / layout.CATALOG
        with duckdb.connect(str(built)) as connection:
            if not lake.local:
                connection.register_filesystem(lake.fs)
            create_views(connection, lake, wanted, retained=retained)
        lake.write(layout.CATALOG, built.read_bytes())


@again_when_sealed()
def connect(
    lake: Lake,
    wanted: Mapping[str, Wanted],
    known: KnownRuns = NOTHING_KNOWN,
    retained: Collection[str] = (),
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views over the lake as it is now. `known`, `retained`: as for `create_views`."""
    ensure_tables(lake, wanted)
    spill = Path(tempfile.gettempdir()) / f"caption-assets-duckdb-{os.getuid()}"  # not in the current folder
    connection = duckdb.connect(config={"temp_directory": str(spill), "max_temp_directory_size": _MAX_SPILL})
    connection.execute("SET enable_progress_bar = false")  # it writes to standard output, between what programs read
    if not lake.local:
        connection.register_filesystem(lake.fs)
    create_views(connection, lake, wanted, read_beats(lake), known, retained)
    return connection


def create_views(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    wanted: Mapping[str, Wanted],
    beats: Sequence[Beat] | None = None,
    known: KnownRuns = NOTHING_KNOWN,
    retained: Collection[str] = (),
) -> None:
    """Create the manifest and all views in an empty database.

    Args:
        wanted: at least one perspective.
        known: what Dagster knows of runs.
        retained: datasets whose views keep what their source no longer has.
    """
    current, forms = read_current(lake), forms_in(lake)
    shown = shown_of(forms, current)
    connection.execute("CREATE SCHEMA rows")
    create_manifest(connection, wanted, current, shown)
    connection.execute(f"CREATE VIEW runs AS {_read(lake, 'runs/*/*.parquet')} UNION ALL BY NAME {_RUNS_SINCE}")
    connection.execute(f"CREATE VIEW reconciliations AS {_read(lake, f'{layout.RECONCILIATIONS}/*/*.parquet')}")
    create_hidden(connection, lake, retained, partial(_read, lake), partial(_location, lake))
    _create_media_view(connection, lake)
    for name, fingerprints in forms.items():
        _create_captions_view(connection, lake, name, fingerprints, shown[name])
    _create_unions(connection, list(forms), wanted)
    for statement in (FAILURES, _CONTRIBUTORS, STALE, *GROUPS, SHARDS, _NEAR_DUPLICATES):
        connection.execute(
            statement.format(
                failures=f"{_read(lake, 'failures/*/*/*.parquet')} UNION ALL BY NAME {_FAILURES_SINCE}",
                plans=_read(lake, "shards/*/*.parquet"),
                pairs=_read(lake, "duplicates/*.parquet"),
            )
        )
    create_status_views(connection, _location(lake, f"{layout.RUNNING}/*.json"), beats, known)


def forms_in(lake: Lake) -> dict[str, list[str]]:
    """The fingerprints of all forms of every perspective that the lake has rows of, or a zero-row file."""
    names = [entry.removeprefix("perspective=") for entry in lake.list("captions") if entry.startswith("perspective=")]
    return {name: fingerprints for name in names if (fingerprints := _fingerprints(lake, name))}


def shown_of(forms: Mapping[str, Sequence[str]], current: Mapping[str, str]) -> dict[str, str]:
    """The form of each perspective that the views show first."""
    return {name: current[name] if current.get(name) in each else each[0] for name, each in forms.items()}


def _fingerprints(lake: Lake, name: str) -> list[str]:
    """The forms of a perspective that have a file: a writer that was killed can leave folders without one."""
    folder = f"captions/perspective={name}"
    forms = [entry for entry in lake.list(folder) if entry.startswith("fingerprint=")]
    return [entry.removeprefix("fingerprint=") for entry in forms if _has_file(lake, f"{folder}/{entry}")]


def _has_file(lake: Lake, form: str) -> bool:
    datasets = (f"{form}/{dataset}" for dataset in lake.list(form))
    shards = (f"{dataset}/{shard}" for dataset in datasets for shard in lake.list(dataset))
    return any(name.endswith(".parquet") for shard in shards for name in lake.list(shard))


def _read(lake: Lake, pattern: str) -> str:
    return f"SELECT * FROM read_parquet({_location(lake, pattern)}, union_by_name = true, hive_partitioning = false)"


def _location(lake: Lake, pattern: str) -> str:
    """A glob under the lake as an SQL string; the lake's own path is taken literally."""
    path = f"{glob.escape(lake.url('').rstrip('/'))}/{pattern}"
    return "'" + path.replace("'", "''") + "'"


def create_manifest(
    connection: duckdb.DuckDBPyConnection,
    wanted: Mapping[str, Wanted],
    current: Mapping[str, str],
    shown: Mapping[str, str],
) -> None:
    """The tables `perspectives`, `changes` and `rows.shown`. `shown`: as `shown_of` has it."""
    connection.execute(
        """CREATE TABLE perspectives
        (perspective VARCHAR, fingerprint VARCHAR, current VARCHAR, inputs VARCHAR[], enabled BOOLEAN)"""
    )
    for name in sorted(set(wanted) | set(shown)):
        asked = wanted.get(name)
        connection.execute(
            "INSERT INTO perspectives VALUES (?, ?, ?, ?, ?)",
            [
                name,
                asked.fingerprint if asked else None,
                current.get(name),
                list(asked.inputs) if asked else None,
                asked is not None,
            ],
        )
    connection.execute("CREATE TABLE rows.shown (perspective VARCHAR, fingerprint VARCHAR)")
    for each in shown.items():
        connection.execute("INSERT INTO rows.shown VALUES (?, ?)", each)
    connection.execute("CREATE TABLE changes (perspective VARCHAR, fingerprint VARCHAR, changes VARCHAR)")
    for name, asked in wanted.items():
        for earlier, lines in asked.changes.items():
            connection.execute("INSERT INTO changes VALUES (?, ?, ?)", [name, earlier, ", ".join(lines)])


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


def _create_media_view(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """`tombstones`, and `media` without what they name: what was deleted is gone from all views at once."""
    connection.execute(f"CREATE VIEW tombstones AS {_read(lake, f'{layout.TOMBSTONES}/*.parquet')}")
    connection.execute("CREATE VIEW rows.deleted AS SELECT media_id FROM tombstones WHERE media_id IS NOT NULL")
    connection.execute(f"CREATE VIEW media AS SELECT * FROM ({_read(lake, 'media/*/*.parquet')}) {VISIBLE_MEDIA}")


def _create_captions_view(
    connection: duckdb.DuckDBPyConnection, lake: Lake, name: str, fingerprints: list[str], shown: str
) -> None:
    """The typed views of one perspective: all forms, converted to the shown one's type."""
    folder = layout.fingerprint_folder(name, shown)
    location = _location(lake, f"{folder}/*/*/*.parquet")
    output = connection.execute(f"SELECT output FROM read_parquet({location}) LIMIT 0").description[0][1]
    selects = []
    for each in [shown, *(other for other in fingerprints if other != shown)]:
        select = _read(lake, f"{layout.fingerprint_folder(name, each)}/*/*/*.parquet")
        if each != shown:
            converted = f"TRY_CAST(CAST(to_json(output) AS JSON) AS {output}) AS output"
            select = select.replace("SELECT *", f"SELECT * REPLACE ({converted})", 1)
        selects.append(select)
    selects.append(_SINCE)
    fields = [field for field, _ in output.children] if output.id == "struct" else []
    taken = {*tables.META_COLUMNS, "output", "is_current"}
    flat = "".join(f', output."{field}" AS "{field}"' for field in fields if field.lower() not in taken)
    connection.execute(
        f"""CREATE VIEW rows."{name}" AS
        SELECT *, fingerprint = '{shown}' AS is_current{flat}
        FROM ({" UNION ALL BY NAME ".join(selects)}) {VISIBLE_ROWS}"""
    )
    connection.execute(  # what was paid for rather than its copies, so that `contributors` counts it
        f"""CREATE VIEW "captions_{name}" AS SELECT * FROM rows."{name}"
        QUALIFY row_number() OVER (
            PARTITION BY media_id ORDER BY is_current DESC, reused_from IS NULL DESC, created_at DESC
        ) = 1"""
    )
    _create_regions_view(connection, name, output)


def _create_regions_view(connection: duckdb.DuckDBPyConnection, name: str, output: Any) -> None:
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


def _create_unions(connection: duckdb.DuckDBPyConnection, names: list[str], enabled: Collection[str]) -> None:
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
    WITH wanted AS (SELECT perspective, fingerprint, inputs FROM perspectives WHERE fingerprint IS NOT NULL),
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
           coalesce(t.seconds, usual.seconds) AS seconds, coalesce(t.cost, usual.cost) AS cost
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
