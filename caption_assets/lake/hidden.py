"""What the catalog's views leave out though it is in the lake: departed items, and shards merged or being merged."""

from __future__ import annotations

from collections.abc import Callable, Collection

import duckdb

from caption_assets.lake import layout
from caption_assets.lake.departures import departed_from
from caption_assets.lake.merges import live
from caption_assets.lake.store import Lake

_MANY_SHARDS = 500
"""With departed items; their indexes are named one by one, those of more are read with all others."""

DEPARTED = """CREATE VIEW rows.departed AS
    SELECT media_id, m.shard FROM {indexes} m LEFT JOIN rows.away a USING (dataset, uri, etag)
    GROUP BY ALL HAVING bool_and(a.uri IS NOT NULL)"""


def create_hidden(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    retained: Collection[str],
    read: Callable[[str], str],
    location: Callable[[str], str],
) -> None:
    """Create `departures`, `merges`, and in the schema `rows` what is hidden for them.

    Args:
        retained: datasets that keep what their source no longer has.
        read: the SELECT over the files of a glob.
        location: a glob as an SQL string.
    """
    connection.execute("CREATE TABLE retained (dataset VARCHAR)")
    for name in sorted(retained):
        connection.execute("INSERT INTO retained VALUES (?)", [name])
    connection.execute(
        f"""CREATE VIEW merges AS SELECT * EXCLUDE (version, merged) FROM ({read(f"{layout.MERGES}/*/*.parquet")})
        QUALIFY version = max(version) OVER (PARTITION BY dataset)"""
    )
    connection.execute(
        """CREATE VIEW rows.merged AS SELECT shard FROM merges WHERE state = 'done'
        UNION ALL SELECT successor FROM merges WHERE state = 'pending'"""
    )
    connection.execute(
        f"""CREATE VIEW departures AS
        SELECT d.dataset, coalesce(m.successor, d.shard) AS shard, uri, etag, d.dataset IN (FROM retained) AS retained,
               d.run_id, d.created_at
        FROM ({read(f"{layout.DEPARTURES}/*/*.parquet")}) d LEFT JOIN merges m ON m.shard = d.shard AND m.state = 'done'
        QUALIFY row_number() OVER (PARTITION BY d.dataset, uri, etag ORDER BY d.created_at DESC, gone) = 1 AND gone"""
    )
    connection.execute("CREATE VIEW rows.away AS SELECT dataset, uri, etag FROM departures WHERE NOT retained")
    _create_departed(connection, lake, retained, location)


def _create_departed(
    connection: duckdb.DuckDBPyConnection, lake: Lake, retained: Collection[str], location: Callable[[str], str]
) -> None:
    """`rows.departed`: pictures of which a shard has no item that is there.

    It looks into the indexes of the shards that have departed items now, not into all: every view of captions reads it.
    So in a database made before, captions of items that departed since are only gone where they are joined with media.
    """
    datasets = [name.removeprefix("dataset=") for name in lake.list(layout.DEPARTURES)]
    shards = {live(lake, shard) for name in datasets if name not in retained for shard in departed_from(lake, name)}
    paths = [f"media/{layout.EMPTY}", *sorted(filter(lake.exists, map(layout.media_index, shards)))]
    if len(shards) > _MANY_SHARDS:
        paths = ["media/*/*.parquet"]
    files = ", ".join(map(location, paths))
    indexes = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    connection.execute(DEPARTED.format(indexes=indexes))
