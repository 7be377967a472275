"""An in-memory database with the views that count, and the status, over kept counts: what changed is counted first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from math import inf

import duckdb
import numpy as np
import pyarrow as pa

from caption_assets.counts.asked import Asked
from caption_assets.counts.counting import Counter, ToCount
from caption_assets.counts.days import RunsUnread, recent_runs
from caption_assets.counts.files import Holding
from caption_assets.counts.kept import LISTED, Damaged, KeptCounts
from caption_assets.counts.listing import Listing, list_lake
from caption_assets.lake import tables
from caption_assets.lake.definition import Wants, ensure_tables
from caption_assets.lake.groups import SHARDS
from caption_assets.lake.heartbeats import read_beats
from caption_assets.lake.layout import Shard
from caption_assets.lake.status import NOTHING_KNOWN, KnownRuns, create_status_views, tell_beats, tell_known
from caption_assets.lake.store import Lake
from caption_assets.lake.vanishing import again_when_sealed
from caption_assets.lake.views import STALE, create_manifest

_STORE_SECONDS = 20.0
"""Between files of counts, while a large lake is counted."""

Tell = Callable[[int, int], None]


def UNTOLD(counted: int, total: int) -> None:
    """Nobody is told."""


class StillCounting(Exception):
    """There was no time to count all; what was counted is kept, and the next call goes on from there."""


@again_when_sealed(Damaged)
def connect(
    lake: Lake,
    wants: Wants,
    known: KnownRuns = NOTHING_KNOWN,
    seconds: float = inf,
    tell: Tell = UNTOLD,
) -> duckdb.DuckDBPyConnection:
    """The views `shards`, `status`, `workers`, `runs` (of the last days) and those of `GROUPS`, as the lake is now.

    Args:
        wants, known: as for the catalog's `connect`.
        seconds: after so long, counting ends.
        tell: called with how many shards are counted, of how many that are to be.

    Raises:
        StillCounting: more is to be counted than that.
    """
    until = time.monotonic() + seconds
    ensure_tables(lake, wants.perspectives)
    listings = list_lake(lake)
    asked = Asked.read(lake, wants, [listing.dataset for listing in listings])
    connection = duckdb.connect()
    try:
        connection.execute("SET enable_progress_bar = false")
        _fill(connection, lake, asked, listings, until, tell)
        try:
            runs = recent_runs(lake, wants.perspectives, until - time.monotonic())
        except RunsUnread as error:
            raise StillCounting(str(error)) from None
        _create_views(connection, lake, asked, runs, known)
    except BaseException:
        connection.close()
        raise
    return connection


def _fill(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    asked: Asked,
    listings: Sequence[Listing],
    until: float,
    tell: Tell,
) -> None:
    """Create the table `kept`, a row a shard, and `unasked`: of which perspectives a mask's shards have nothing."""
    masks = Masks()
    listed = pa.concat_tables([LISTED.empty_table(), *(masks.table(listing, asked) for listing in listings)])
    connection.register("arrow", listed)
    connection.execute("CREATE TABLE listed AS FROM arrow")
    counter, kept = Counter(lake, asked), KeptCounts(lake, asked.tombstones)
    fresh = _Fresh(connection, kept)
    try:
        kept.select(connection, masks.terms, counter.nothing())
        left = connection.execute(
            "SELECT dataset, number, mask FROM listed ANTI JOIN kept USING (dataset, number) ORDER BY 1, 2"
        ).fetchall()
        places = {listing.dataset: listing for listing in listings}
        for table in counter.count(masks.to_count(places[name], *which) for name, *which in left):
            fresh.add(table)
            tell(fresh.counted, len(left))
            if fresh.counted < len(left) and time.monotonic() > until:
                rest = f"{len(left) - fresh.counted:,} of {listed.num_rows:,} shards are still to be counted"
                raise StillCounting(rest)
    finally:
        counter.close()
        fresh.store()
    unasked = [
        {"mask": mask, "perspective": name}
        for mask, terms in masks.terms.items()
        for name in asked.wanted.keys() - {_perspective(term) for term in terms}
    ]
    connection.register("arrow", pa.Table.from_pylist(unasked, _UNASKED))
    connection.execute("CREATE TABLE unasked AS FROM arrow")
    connection.unregister("arrow")


class Masks:
    """Numbers the sets of terms that hold for shards: there are few."""

    def __init__(self) -> None:
        self.terms: dict[int, frozenset[str]] = {}
        self._numbers: dict[frozenset[str], int] = {}

    def table(self, listing: Listing, asked: Asked) -> pa.Table:
        """A listing's shards that are to be seen, of `LISTED`."""
        terms = asked.terms(listing)
        asked.mark(listing)
        seen = np.ones(len(listing.numbers), np.bool_)
        for key in asked.hidden:
            if (shard := Shard.parse(key)).dataset == listing.dataset:
                seen[listing.numbers == shard.number] = False
        matrix = np.array([np.zeros(len(seen), np.bool_), *terms.values()])
        _, first, inverse = np.unique(np.packbits(matrix, axis=0), axis=1, return_index=True, return_inverse=True)
        numbers = [self._number(frozenset(term for term, mask in terms.items() if mask[at])) for at in first]
        mask = np.array(numbers, np.int64)[inverse.reshape(-1)]
        keys = [f"{listing.dataset}-{number:06d}" for number in listing.numbers.tolist()]
        columns = [
            pa.array([listing.dataset] * len(keys), pa.string()),
            pa.array(listing.numbers),
            pa.array(keys, pa.string()),
            *(pa.array(lane) for lane in listing.hashes),
            pa.array(mask),
            pa.array(listing.young),
        ]
        return pa.table(columns, schema=LISTED).filter(pa.array(seen))

    def to_count(self, listing: Listing, number: int, mask: int) -> ToCount:
        """What a shard's counting needs."""
        at = int(np.searchsorted(listing.numbers, number))
        captions = [place for place, there in listing.captions.items() if there[at]]
        failures = [stage for stage, there in listing.failures.items() if there[at]]
        low, high = (int(lane[at]) for lane in listing.hashes)
        terms = sorted(self.terms[mask])
        holding = Holding(listing.shard(at), captions, failures)
        return ToCount(holding, low, high, json.dumps(terms), sorted({_perspective(term) for term in terms}))

    def _number(self, terms: frozenset[str]) -> int:
        number = self._numbers.setdefault(terms, len(self._numbers))
        self.terms[number] = terms
        return number


class _Fresh:
    """What is counted now: into the table `kept`, and on the disk where a listing will say whether it still holds."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, kept: KeptCounts) -> None:
        self._connection, self._kept = connection, kept
        self._waiting: list[pa.Table] = []
        self._stored = time.monotonic()
        self.counted = 0
        """Shards."""

    def add(self, table: pa.Table) -> None:
        """Take over rows."""
        self.counted += table.num_rows
        self._connection.register("arrow", table)
        self._connection.execute(
            """INSERT INTO kept BY NAME
            SELECT a.* EXCLUDE (marks), l.mask FROM arrow a JOIN listed l USING (dataset, number)"""
        )
        settled = "SELECT a.* FROM arrow a SEMI JOIN (FROM listed WHERE NOT young) USING (dataset, number)"
        self._waiting.append(self._connection.sql(settled).to_arrow_table())
        if time.monotonic() - self._stored > _STORE_SECONDS:
            self.store()

    def store(self) -> None:
        """Put on the disk what is not there yet."""
        if any(table.num_rows for table in self._waiting):
            self._kept.add(pa.concat_tables(self._waiting))
        self._waiting, self._stored = [], time.monotonic()


def _perspective(term: str) -> str:
    return term.partition("=")[0]


def _create_views(
    connection: duckdb.DuckDBPyConnection, lake: Lake, asked: Asked, runs: pa.Table, known: KnownRuns
) -> None:
    connection.execute("CREATE SCHEMA rows")
    create_manifest(connection, asked.wants, asked.current, asked.shown)
    connection.register("arrow", runs)
    connection.execute("CREATE TABLE runs AS FROM arrow")
    connection.register("arrow", _rates(asked, runs))
    connection.execute("CREATE TABLE rows.rates AS FROM arrow")
    connection.unregister("arrow")
    for statement in (*_GROUPS, SHARDS):
        connection.execute(statement)
    tell_known(connection, known)
    tell_beats(connection, read_beats(lake))
    create_status_views(connection)


def _rates(asked: Asked, runs: pa.Table) -> pa.Table:
    """What a picture takes by perspective, as `stale` has it: asked of one that has nothing yet."""
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA rows")
        create_manifest(connection, asked.wants, asked.current, asked.shown)
        connection.register("all_runs", runs)
        connection.execute("CREATE TABLE runs AS FROM all_runs")
        for name, schema in {"caption_rows": tables.captions_schema(pa.null()), "failures": tables.FAILURES}.items():
            connection.register("arrow", schema.empty_table())
            connection.execute(f"CREATE TABLE {name} AS FROM arrow")
        connection.execute("CREATE TABLE media AS SELECT 'm' AS media_id, 'd' AS dataset, 's' AS shard")
        connection.execute(STALE)
        return connection.sql("SELECT perspective, seconds, cost FROM stale").to_arrow_table()


_UNASKED = pa.schema([("mask", pa.int64()), ("perspective", pa.string())])
_STANDING = """stage = 'media' OR EXISTS (
        SELECT 1 FROM perspectives p
        WHERE p.perspective = stage AND c.fingerprint = coalesce(p.fingerprint, p.current)
    )"""
"""Of failures: those that the view `failures` would have."""
_GROUPS = (
    "CREATE VIEW rows.plan_counts AS "
    "SELECT dataset, shard, planned, departed, planned_at FROM kept WHERE planned IS NOT NULL",
    "CREATE VIEW rows.media_counts AS SELECT shard, media, pictures, made_at FROM kept WHERE media > 0",
    "CREATE VIEW rows.normalisation_counts AS SELECT shard, unnest(normalisations, recursive := true) FROM kept",
    "CREATE VIEW rows.caption_counts AS SELECT shard, unnest(captions, recursive := true) FROM kept",
    """CREATE VIEW rows.open_counts AS
    WITH unasked_here AS (
        SELECT k.dataset, k.shard, k.pictures, perspective FROM kept k JOIN unasked USING (mask)
    ), there AS (
        SELECT u.dataset, u.shard, u.perspective, c.fingerprint, c.pictures AS n
        FROM unasked_here u JOIN rows.caption_counts c ON c.shard = u.shard AND c.perspective = u.perspective
    ), counts AS (
        SELECT o.perspective, dataset, shard, reason, o.fingerprint, why, n
        FROM (SELECT dataset, shard, unnest(open, recursive := true) FROM kept) o
        JOIN perspectives p ON p.perspective = o.perspective AND p.fingerprint = o.wanted
        UNION ALL
        SELECT perspective, dataset, shard, 'stale', fingerprint, 'an earlier form', n FROM there
        UNION ALL
        SELECT u.perspective, u.dataset, u.shard, 'missing', NULL, NULL, u.pictures - coalesce(sum(t.n), 0)::BIGINT
        FROM unasked_here u LEFT JOIN there t ON t.shard = u.shard AND t.perspective = u.perspective
        GROUP BY u.perspective, u.dataset, u.shard, u.pictures
    )
    SELECT c.perspective, c.dataset, c.shard, c.reason, c.fingerprint,
           CASE WHEN c.reason = 'stale' THEN coalesce(h.changes, c.why) ELSE c.why END AS why, c.n, r.seconds, r.cost
    FROM counts c LEFT JOIN changes h ON h.perspective = c.perspective AND h.fingerprint = c.fingerprint
    LEFT JOIN rows.rates r ON r.perspective = c.perspective
    WHERE c.n > 0""",
    f"""CREATE VIEW rows.failure_counts AS
    FROM (SELECT shard, unnest(failures, recursive := true) FROM kept) c WHERE {_STANDING}""",
    f"""CREATE VIEW rows.retry_counts AS
    FROM (SELECT shard, unnest(retries, recursive := true) FROM kept) c WHERE {_STANDING}""",
    f"""CREATE VIEW rows.made_counts AS
    FROM (SELECT shard, unnest(made, recursive := true) FROM kept) c
    WHERE fingerprint IS NULL OR {_STANDING.replace("stage", "c.perspective")}""",
    f"""CREATE VIEW rows.last_failures AS
    FROM (SELECT dataset, shard, unnest(last, recursive := true) FROM kept) c WHERE {_STANDING}""",
)
"""The views of the same names as the catalog's."""
