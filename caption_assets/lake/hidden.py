"""What the catalog's views leave out though it is in the lake: departed items, and shards merged or being merged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from caption_assets.lake import layout, tables
from caption_assets.lake.departures import departed_from
from caption_assets.lake.merges import live
from caption_assets.lake.sql_files import SqlFiles
from caption_assets.lake.store import Lake
from caption_assets.lake.view_stack import ViewStack

_MANY_SHARDS = 500
"""With departed items; their indexes are named one by one, those of more are read with all others."""

DEPARTED = """CREATE VIEW rows.departed AS
    SELECT media_id, m.shard FROM {indexes} m LEFT JOIN rows.away a USING (dataset, uri, etag)
    GROUP BY ALL HAVING bool_and(a.uri IS NOT NULL)"""


def create_hidden(connection: ViewStack, retained: Collection[str], departed: Sequence[str], files: SqlFiles) -> None:
    """Create `departures`, `merges`, and in the schema `rows` what is hidden for them.

    Args:
        retained: datasets that keep what their source no longer has.
        departed: as `departed_indexes` has them.
    """
    connection.execute("CREATE TABLE retained (dataset VARCHAR)")
    for name in sorted(retained):
        connection.execute("INSERT INTO retained VALUES (?)", [name])
    merges = files.rows(f"{layout.MERGES}/*/*.parquet", tables.MERGES)
    departures = files.rows(f"{layout.DEPARTURES}/*/*.parquet", tables.DEPARTURES)
    connection.execute(
        f"""CREATE VIEW merges AS SELECT * EXCLUDE (version, merged) FROM ({merges})
        QUALIFY version = max(version) OVER (PARTITION BY dataset)"""
    )
    connection.execute(
        """CREATE VIEW rows.merged AS
        SELECT CASE WHEN state = 'done' THEN shard ELSE successor END AS shard
        FROM merges WHERE state IN ('done', 'pending')"""
    )
    connection.execute(
        f"""CREATE VIEW departures AS
        SELECT d.dataset, coalesce(m.successor, d.shard) AS shard, uri, etag, d.dataset IN (FROM retained) AS retained,
               d.run_id, d.created_at
        FROM ({departures}) d LEFT JOIN merges m ON m.shard = d.shard AND m.state = 'done'
        QUALIFY row_number() OVER (PARTITION BY d.dataset, uri, etag ORDER BY d.created_at DESC, gone) = 1 AND gone"""
    )
    connection.execute("CREATE VIEW rows.away AS SELECT dataset, uri, etag FROM departures WHERE NOT retained")
    connection.execute(DEPARTED.format(indexes=files.read(departed)))


def departed_indexes(lake: Lake, retained: Collection[str]) -> list[str]:
    """Where `rows.departed` looks for the pictures of which a shard has no item that is there: paths, or a glob.

    They are the indexes of the shards that have departed items now, not all: every view of captions reads them.
    So in a catalog made before, captions of items that departed since are only gone where they are joined with media.
    """
    datasets = [name.removeprefix("dataset=") for name in lake.list(layout.DEPARTURES)]
    shards = {live(lake, shard) for name in datasets if name not in retained for shard in departed_from(lake, name)}
    if len(shards) > _MANY_SHARDS:
        return ["media/*/*.parquet"]
    return [f"media/{layout.EMPTY}", *sorted(filter(lake.exists, map(layout.media_index, shards)))]
