"""A lake with a random history, and what the plain views and the kept counts say of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from caption_assets.captioning.rows import input_digest
from caption_assets.counts import views as counts
from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.departures import Departed, departed_items, record
from caption_assets.lake.erasing import erase
from caption_assets.lake.groups import MORE_GROUPS
from caption_assets.lake.layout import Shard
from caption_assets.lake.merges import begin, finish, read_ledger
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.tombstones import read_tombstones, write_tombstone
from caption_assets_tests.lake.hand import TEXT

PICTURES = [f"{number:02x}" * 32 for number in range(12)]
SUMS = {
    "shards": "FROM shards ORDER BY ALL",
    "status": "SELECT * REPLACE (round(redo_seconds, 6) AS redo_seconds, round(redo_cost, 6) AS redo_cost) FROM status",
}
GROUPS = {
    "open": "SELECT perspective, dataset, shard, reason, fingerprint, why, n, round(seconds, 6) AS seconds, "
    "round(cost, 6) AS cost FROM rows.open_counts ORDER BY ALL",
    "media": "SELECT shard, media, pictures, made_at FROM rows.media_counts ORDER BY ALL",
    "normalisations": "SELECT shard, normalisation, n FROM rows.normalisation_counts ORDER BY ALL",
    "captions": "SELECT perspective, shard, fingerprint, n, pictures FROM rows.caption_counts ORDER BY ALL",
    "failures": "SELECT stage, shard, fingerprint, kind, n FROM rows.failure_counts ORDER BY ALL",
    "retries": "SELECT stage, shard, fingerprint, kind, attempts, retryable, n, latest FROM rows.retry_counts "
    "ORDER BY ALL",
    "made": "SELECT run_id, shard, perspective, fingerprint, day, n FROM rows.made_counts ORDER BY ALL",
    "last": "SELECT dataset, shard, stage, picture, kind, message, created_at FROM rows.last_failures "
    "ORDER BY created_at DESC, shard, stage, picture LIMIT 3",
}


class History:
    """Acts at random, as runs, people and the consolidation do."""

    def __init__(self, root: str, seed: int) -> None:
        self.lake = Lake(root)
        self.wanted = {
            "look": Wanted("look-1", (), TEXT),
            "count": Wanted("count-1", (), TEXT),
            "sum": Wanted("sum-1", ("count", "look"), TEXT),
        }
        self.retained: list[str] = []
        self.normalisation = "n1"
        self.counted = 0
        """Shards that the last look counted."""
        self._random = random.Random(seed)
        self._step = 0
        self._shards: dict[str, list[Shard]] = {"demo": [], "street": []}
        self._stale = {name: [each.fingerprint] for name, each in self.wanted.items()}
        self._actions: list[Callable[[], None]] = [
            *[self.arrive] * 2,
            *[self.caption] * 6,
            *[self.fail] * 2,
            *(self.media_fail, self.seal, self.delete, self.delete_place, self.carry_out, self.forgive, self.depart),
            *(self.merge, self.change, self.revert, self.promote, self.disable, self.read_less, self.run, self.retain),
            self.normalise,
        ]

    def act(self) -> str:
        """Do something; says what."""
        self._step += 1
        action = self._random.choice(self._actions) if any(self._shards.values()) else self.arrive
        action()
        self._age()
        return action.__name__

    def plain(self, *, sums: bool = False) -> dict[str, Any]:
        """What the catalog says; `sums`: with what is made of the groups, which takes it long."""
        with connect(self.lake, self._wants()) as views:
            for statement in MORE_GROUPS:
                views.execute(statement)
            return _answers(views, GROUPS | SUMS if sums else GROUPS)

    def kept(self) -> dict[str, Any]:
        """What the counts say, and in `counted` how many shards were counted for it."""
        self.counted = 0

        def tell(counted: int, _: int) -> None:
            self.counted = counted

        with counts.connect(self.lake, self._wants(), tell=tell) as views:
            return _answers(views, GROUPS | SUMS)

    def arrive(self) -> None:
        """A shard is planned, and mostly has media."""
        dataset = self._random.choice([*self._shards])
        number = max([each.number for each in self._numbers(dataset)], default=-1) + 1
        shard = Shard(dataset, number)
        self._shards[dataset].append(shard)
        items = [(f"{shard.key}/{place}.png", "1") for place in range(self._random.randint(1, 4))]
        rows = [{**_head(shard), "uri": uri, "etag": etag, "planned_at": self._now()} for uri, etag in items]
        self._write(layout.plan_file(shard), rows, tables.PLAN)
        if self._random.random() < 0.8:
            self._index(shard, items)

    def caption(self) -> None:
        """Some rows of a form, in a part file of their own; of pictures that have one, too."""
        shard, name = self._shard(), self._perspective()
        form = self.wanted[name].fingerprint if self._random.random() < 0.8 else self._random.choice(self._stale[name])
        media_ids = [row["media_id"] for row in self._read(layout.media_index(shard))] + PICTURES[:1]
        rows = [
            {
                **_head(shard),
                "media_id": media_id,
                "perspective": name,
                "fingerprint": form,
                "output": {"caption": media_id},
                "output_digest": f"digest {self._random.randint(0, 1)}",
                "input_digest": self._read_by(name, shard, media_id),
                "created_at": self._now(),
                "run_id": self._random.choice("xyz"),
                "reused_from": self._random.choice([None, None, "demo-000000"]),
            }
            for media_id in self._random.sample(media_ids, self._random.randint(1, len(media_ids)))
        ]
        folder = layout.captions_folder(name, form, shard)
        self._write(f"{folder}/part-{self._step}.parquet", rows, tables.captions_schema(TEXT))

    def fail(self) -> None:
        """A perspective's failures in a shard, over what was there."""
        shard, name = self._shard(), self._perspective()
        rows = [
            {
                **_head(shard),
                "stage": name,
                "media_id": row["media_id"],
                "fingerprint": self.wanted[name].fingerprint,
                "kind": self._random.choice(["empty", "engine", "input_missing"]),
                "message": "why not",
                "attempts": self._random.randint(1, 3),
                "retryable": self._random.random() < 0.5,
                "input_digest": self._read_by(name, shard, row["media_id"]),
                "run_id": self._random.choice("xyz"),
                "created_at": self._now(),
            }
            for row in self._read(layout.media_index(shard))
            if self._random.random() < 0.5
        ]
        self._write(layout.failures_file(name, shard), rows, tables.FAILURES)

    def media_fail(self) -> None:
        """An item of a shard has no media, or was deleted."""
        shard = self._shard()
        index = self._read(layout.media_index(shard))
        if not index:
            return
        lost = self._random.choice(index)
        failure = {
            **_head(shard),
            "stage": "media",
            "uri": lost["uri"],
            "etag": lost["etag"],
            "kind": self._random.choice(["gone", "unreadable", "deleted"]),
            "attempts": 1,
            "retryable": True,
            "created_at": self._now(),
        }
        before = self._read(layout.failures_file("media", shard))
        self._write(layout.failures_file("media", shard), [*before, failure], tables.FAILURES)
        self._write(layout.media_index(shard), [row for row in index if row is not lost], tables.MEDIA)

    def seal(self) -> None:
        """The parts of a form become one file."""
        name = self._perspective()
        folder = layout.captions_folder(name, self.wanted[name].fingerprint, self._shard())
        files = [f"{folder}/{each}" for each in self.lake.list(folder)]
        latest: dict[str, dict[str, Any]] = {}
        for row in sorted((row for file in files for row in self._read(file)), key=lambda row: row["created_at"]):
            latest[row["media_id"]] = row
        if files:
            rows = [*latest.values()]
            self._write(f"{folder}/sealed-{self._step}.parquet", rows, tables.captions_schema(TEXT))
        for file in files:
            self.lake.remove(file)

    def delete(self) -> None:
        """A picture's tombstone, and nothing else yet."""
        write_tombstone(self.lake, [{"media_id": self._random.choice(PICTURES), "created_at": self._now()}])

    def delete_place(self) -> None:
        """The tombstone of a place."""
        shard = self._shard()
        uri = self._random.choice(self._read(layout.plan_file(shard)))["uri"]
        write_tombstone(self.lake, [{"dataset": shard.dataset, "uri": uri, "created_at": self._now()}])

    def carry_out(self) -> None:
        """Rows of what was deleted go."""
        erase(self.lake, read_tombstones(self.lake).media_ids)

    def forgive(self) -> None:
        """A tombstone is taken back."""
        files = [file for file in read_tombstones(self.lake).files if not file.endswith("empty.parquet")]
        if files:
            self.lake.remove(self._random.choice(files))

    def depart(self) -> None:
        """Items leave their source, or come back."""
        shard = self._shard()
        away = departed_items(self.lake, shard.dataset)
        if away and self._random.random() < 0.4:
            record(self.lake, shard.dataset, [], [self._random.choice(away)], "r")
            return
        row = self._random.choice(self._read(layout.plan_file(shard)))
        record(self.lake, shard.dataset, [Departed(shard.key, row["uri"], row["etag"])], [], "r")

    def merge(self) -> None:
        """Two shards become one; now and then it is only begun."""
        dataset = self._random.choice([*self._shards])
        if len(self._shards[dataset]) < 2:
            return
        parts = self._random.sample(self._shards[dataset], 2)
        successor = Shard(dataset, max(each.number for each in self._numbers(dataset)) + 1)
        merge = begin(self.lake, dataset, parts, successor, "r")
        if merge is None:
            return
        for path_of, schema in ((layout.plan_file, tables.PLAN), (layout.media_index, tables.MEDIA)):
            rows = [{**row, **_head(successor)} for part in parts for row in self._read(path_of(part))]
            self._write(path_of(successor), rows, schema)
        for name, each in self.wanted.items():
            folders = [layout.captions_folder(name, each.fingerprint, part) for part in parts]
            files = [f"{folder}/{file}" for folder in folders for file in self.lake.list(folder)]
            rows = [{**row, **_head(successor)} for file in files for row in self._read(file)]
            folder = layout.captions_folder(name, each.fingerprint, successor)
            self._write(f"{folder}/sealed-{self._step}.parquet", rows, tables.captions_schema(TEXT))
        if self._random.random() < 0.8:
            finish(self.lake, merge, "r")
            self._shards[dataset] = [each for each in self._shards[dataset] if each not in parts] + [successor]

    def change(self) -> None:
        """Another prompt: the perspective and its readers have other forms."""
        self._reform(self._perspective(), f"{self._step}")

    def revert(self) -> None:
        """An earlier form is wanted again."""
        name = self._perspective()
        self._want(name, fingerprint=self._random.choice(self._stale[name]))

    def promote(self) -> None:
        """A run shows its form."""
        name = self._perspective()
        promote(self.lake, {name: self.wanted[name].fingerprint})

    def disable(self) -> None:
        """A perspective goes from the pipeline file, or comes back."""
        if "count" in self.wanted:
            del self.wanted["count"]
            self._want("sum", inputs=("look",))
        else:
            self.wanted["count"] = Wanted(self._stale["count"][-1], (), TEXT)
            self._want("sum", inputs=("count", "look"))

    def read_less(self) -> None:
        """A reader reads something else, which its form does not say."""
        self._want(
            "sum", inputs=self._random.choice([("look",), ("count", "look")] if "count" in self.wanted else [("look",)])
        )

    def run(self) -> None:
        """A run has done something, and says what it took."""
        row = {"run_id": f"r{self._step}", "step": "captions", "perspective": self._perspective(), "done": 3}
        row |= {"seconds": self._random.random(), "cost": 1.0, "cause": "repair", "ended_at": self._now()}
        day = self._now().strftime("%Y-%m-%d")
        self._write(layout.run_file(day, f"r{self._step}", "captions"), [row | _head(self._shard())], tables.RUNS)

    def retain(self) -> None:
        """Departed items are to be kept, or not."""
        self.retained = [] if self.retained else ["demo"]

    def normalise(self) -> None:
        """Pictures are to be stored otherwise, from now on."""
        self.normalisation = self._random.choice(["n1", "n2", "n3"])

    def _wants(self) -> Wants:
        return Wants(self.wanted, self.retained, self.normalisation)

    def _reform(self, name: str, mark: str) -> None:
        fingerprint = f"{name}-{mark}"
        self._stale[name].append(fingerprint)
        changes = {**self.wanted[name].changes, self.wanted[name].fingerprint: ["prompt changed"]}
        self._want(name, fingerprint=fingerprint, changes={key: changes[key] for key in changes if key != fingerprint})
        for reader, each in self.wanted.items():
            if name in each.inputs:
                self._reform(reader, mark)

    def _want(self, name: str, **changes: Any) -> None:
        self.wanted[name] = replace(self.wanted[name], **changes)

    def _index(self, shard: Shard, items: list[tuple[str, str]]) -> None:
        rows = [
            {
                **_head(shard),
                "uri": uri,
                "etag": etag,
                "media_id": self._random.choice(PICTURES),
                "normalisation": self.normalisation,
                "created_at": self._now(),
            }
            for uri, etag in items
        ]
        self._write(layout.media_index(shard), rows, tables.MEDIA)

    def _read_by(self, name: str, shard: Shard, media_id: str) -> str | None:
        """The digest of what a reader reads, or of something earlier."""
        digests: dict[str, str] = {}
        for other in self.wanted[name].inputs:
            fingerprint = self.wanted[other].fingerprint if other in self.wanted else ""
            folder = layout.captions_folder(other, fingerprint, shard)
            rows = [row for file in self.lake.list(folder) for row in self._read(f"{folder}/{file}")]
            mine = [row["output_digest"] for row in rows if row["media_id"] == media_id]
            digests.update({other: mine[-1]} if mine else {})
        return input_digest(digests)

    def _shard(self) -> Shard:
        return self._random.choice([shard for shards in self._shards.values() for shard in shards])

    def _perspective(self) -> str:
        return self._random.choice(sorted(self.wanted))

    def _numbers(self, dataset: str) -> list[Shard]:
        ledger = read_ledger(self.lake, dataset)
        return [
            *self._shards[dataset],
            *(each.successor for each in ledger.entries),
            *(e.shard for e in ledger.entries),
        ]

    def _now(self) -> Any:
        return tables.now() - timedelta(hours=1) + timedelta(seconds=self._step + self._random.random())

    def _read(self, path: str) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = self.lake.read_table(path).to_pylist()
        except FileNotFoundError:
            return []
        return rows

    def _write(self, path: str, rows: list[dict[str, Any]], schema: Any) -> None:
        self.lake.write(path, table_bytes(tables.table(rows, schema)))

    def _age(self) -> None:
        """Let what has just been written be old, and each step's files of a time of their own."""
        if not self.lake.local:
            return
        root = Path(self.lake.path(""))
        border = tables.now().timestamp() - 100
        for path in [root, *root.rglob("*")]:
            if path.stat().st_mtime > border:
                os.utime(path, (border - 10_000 + self._step,) * 2)


def _head(shard: Shard) -> dict[str, Any]:
    return {"dataset": shard.dataset, "shard": shard.key}


def _answers(views: duckdb.DuckDBPyConnection, queries: dict[str, str]) -> dict[str, Any]:
    return {name: views.execute(sql).fetchall() for name, sql in queries.items()}
