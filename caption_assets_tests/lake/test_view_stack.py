"""Views upon views are what they would be, and do not take longer the more ways lead down."""

from __future__ import annotations

import duckdb

from caption_assets.lake.view_stack import ViewStack


def test_they_are_views_in_the_end_over_what_is_there() -> None:
    with duckdb.connect() as database:
        stack = ViewStack(database)
        stack.execute("CREATE TABLE numbers (n BIGINT)")
        stack.execute("INSERT INTO numbers VALUES (?)", [3])
        stack.execute("CREATE VIEW doubled AS SELECT 2 * n AS n, {'n': n}::JSON AS j, NULL AS nothing FROM numbers")
        stack.execute("CREATE VIEW joined AS SELECT n, j FROM doubled UNION ALL SELECT n, NULL FROM numbers")
        stack.finish()
        database.execute("INSERT INTO numbers VALUES (5)")
        assert database.sql("SELECT n FROM joined ORDER BY 1").fetchall() == [(3,), (5,), (6,), (10,)]
        assert database.sql("SELECT nothing FROM doubled").fetchall() == [(None,), (None,)]
        names = database.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
        assert names == [("doubled",), ("joined",)]
        assert database.sql("SELECT table_name FROM duckdb_tables()").fetchall() == [("numbers",)]


def test_what_a_million_ways_lead_to_is_made_at_once() -> None:
    with duckdb.connect() as database:
        stack = ViewStack(database)
        stack.execute("CREATE VIEW v0 AS SELECT 1 AS n")
        for level in range(1, 25):  # made one upon the other, the last one would be bound 16 million times
            stack.execute(f"CREATE VIEW v{level} AS FROM v{level - 1} UNION ALL FROM v{level - 1}")
        stack.finish()
        assert database.sql("SELECT count(*) FROM v3").fetchall() == [(8,)]
        assert database.sql("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [(25,)]
