"""The file of close hashes and the view over it: complete, no bigger than asked, and made anew only when it must be."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caption_assets.config import NearDuplicates
from caption_assets.duplicates.hamming import Hashes
from caption_assets.duplicates.hashes import hex_digits
from caption_assets.duplicates.pairs import NearReport, find_near_duplicates, remove_damaged
from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes

WANTED = Wants({"look": Wanted("f", (), pa.struct([("caption", pa.string())]))})
SIX = NearDuplicates()
ZERO = "0" * 16


@dataclass
class World:
    """A lake with media, and nothing else."""

    lake: Lake
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def media(self, pictures: Iterable[tuple[str, str | None]], **columns: Any) -> Shard:
        """A shard more: (media_id, hash) of its pictures."""
        shard = Shard("d", next(self.numbers))
        head = {"dataset": shard.dataset, "shard": shard.key, **columns}
        rows = [
            {**head, "media_id": media_id, "uri": f"{media_id}.jpg", "phash": phash} for media_id, phash in pictures
        ]
        self.lake.write(layout.media_index(shard), table_bytes(tables.table(rows, tables.MEDIA)))
        return shard

    def hashes(self, hashes: Hashes) -> Shard:
        """A shard more, with a picture for each hash."""
        return self.media((f"m{number}", phash) for number, phash in enumerate(hex_digits(hashes).to_pylist()))

    def find(self, wanted: NearDuplicates = SIX) -> NearReport:
        """Bring the file up to date."""
        remove_damaged(self.lake)
        with connect(self.lake, WANTED) as views:
            return find_near_duplicates(self.lake, views, wanted)

    def stored(self) -> list[tuple[str, str, int]]:
        """The rows of the file."""
        rows = self.lake.read_table(layout.NEAR_DUPLICATES).to_pylist()
        return [(row["phash_a"], row["phash_b"], row["distance"]) for row in rows]

    def view(self, sql: str = "SELECT media_id_a, media_id_b, distance FROM near_duplicates ORDER BY ALL") -> Any:
        """Rows of a query."""
        with connect(self.lake, WANTED) as views:
            return views.execute(sql).fetchall()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Lake(str(tmp_path / "lake")))


@pytest.fixture
def file(world: World) -> Path:
    return Path(world.lake.path(layout.NEAR_DUPLICATES))


def flipped(*bits: int) -> str:
    """The hash with these bits set and no other."""
    return f"{sum(1 << bit for bit in bits):016x}"


def test_close_pictures_are_pairs_over_all_shards(world: World) -> None:
    world.media([("a", ZERO), ("b", flipped(63, 1, 2, 3, 4, 5)), ("z", flipped(*range(30, 37)))])
    world.media([("A", flipped(1)), ("none", None)])
    report = world.find()
    assert world.stored() == [
        (ZERO, flipped(1), 1),
        (flipped(1), flipped(63, 1, 2, 3, 4, 5), 5),
        (ZERO, flipped(63, 1, 2, 3, 4, 5), 6),
    ]
    assert (report.hashes.rows, report.hashes.without, report.found) == (4, 1, [0, 1, 0, 0, 0, 1, 1])
    assert (report.stored, report.left_out, report.searched) == (3, 0, True)
    assert [(close.phash_a, close.phash_b, close.distance) for close in report.closest] == world.stored()
    assert world.view() == [("A", "a", 1), ("A", "b", 5), ("a", "b", 6)]
    assert world.view("SELECT * FROM near_duplicates WHERE distance = 1") == [
        ("A", "a", 1, "d", "d-000001", "A.jpg", "d", "d-000000", "a.jpg")
    ]


def test_equal_hashes_are_pairs_at_distance_0(world: World) -> None:
    world.media([("c", ZERO), ("a", ZERO), ("b", ZERO), ("d", flipped(7)), ("e", flipped(7))])
    report = world.find()
    assert world.stored() == [(ZERO, flipped(7), 1)]
    assert [close.distance for close in report.closest] == [0, 0, 1]
    across = [(one, other, 1) for one in "abc" for other in "de"]
    assert world.view() == sorted([("a", "b", 0), ("a", "c", 0), ("b", "c", 0), ("d", "e", 0), *across])


def test_a_picture_in_several_shards_is_one_picture_with_its_newest_hash(world: World) -> None:
    noon = tables.now()
    world.media([("a", ZERO), ("a", ZERO), ("b", flipped(1))], created_at=noon)
    world.media([("a", flipped(2))], created_at=noon.replace(year=noon.year + 1))
    report = world.find()
    assert len(report.hashes.shared) == 0
    assert world.view() == [("a", "b", 2)]
    assert world.view("SELECT shard_a, shard_b FROM near_duplicates") == [("d-000001", "d-000000")]


def test_an_empty_lake_has_none(world: World) -> None:
    report = world.find()
    assert (report.hashes.rows, report.stored, report.closest) == (0, 0, [])
    assert world.view() == world.stored() == []
    assert not world.find().searched


def test_nothing_is_searched_or_written_when_nothing_changed(world: World, file: Path) -> None:
    world.media([("a", ZERO), ("b", flipped(1)), ("c", ZERO)])
    first = world.find()
    before = os.stat(file)
    world.media([("d", ZERO)])  # no new hash
    second = world.find()
    assert os.stat(file).st_ino == before.st_ino
    assert (first.searched, second.searched) == (True, False)
    assert (second.found, second.stored, second.digest) == (first.found, first.stored, first.digest)
    assert second.closest == first.closest


def test_it_follows_the_media(world: World) -> None:
    world.media([("a", ZERO), ("b", flipped(1))])
    gone = world.media([("c", flipped(1, 2))])
    world.find()
    assert world.view() == [("a", "b", 1), ("a", "c", 2), ("b", "c", 1)]
    world.lake.remove(layout.media_index(gone))
    assert world.view() == [("a", "b", 1)], "at once"
    assert world.find().searched
    assert world.stored() == [(ZERO, flipped(1), 1)]
    world.media([("c", flipped(1, 2, 3))])
    assert world.find().found[:4] == [0, 1, 1, 1]


@pytest.mark.parametrize("other", [NearDuplicates(distance=7), NearDuplicates(max_pairs=1)])
def test_other_settings_make_it_anew(world: World, other: NearDuplicates) -> None:
    world.media([("a", ZERO), ("b", flipped(1)), ("c", flipped(*range(10, 17)))])
    world.find()
    report = world.find(other)
    assert report.searched
    assert [distance for _, _, distance in world.stored()] == ([1, 7] if other.distance == 7 else [1])


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"PAR1 no PAR1"])
def test_a_damaged_file_is_made_anew(world: World, file: Path, damage: Callable[[bytes], bytes]) -> None:
    world.media([("a", ZERO), ("b", flipped(1))])
    world.find()
    file.write_bytes(damage(file.read_bytes()))
    assert world.find().searched
    assert world.stored() == [(ZERO, flipped(1), 1)]


def test_a_file_that_does_not_say_what_it_is_of_is_made_anew(world: World, file: Path) -> None:
    world.media([("a", ZERO), ("b", flipped(1))])
    world.find()
    pq.write_table(tables.NEAR_DUPLICATES.empty_table(), file)
    assert world.find().searched
    assert len(world.stored()) == 1


@pytest.mark.parametrize("bad", ["", "00ff", ZERO + "0", "X" * 16, "00000000000000FF", "0x00000000000000"])
def test_what_is_no_hash_is_named(world: World, bad: str) -> None:
    world.media([("a", ZERO), ("b", None)])
    world.media([("c", bad)])
    with pytest.raises(ValueError, match=r"^media/dataset=d/d-000001\.parquet: phash: .* force: true$"):
        world.find()


def test_a_hundred_thousand_equal_hashes_are_one(world: World) -> None:
    world.media([*((f"{number:06d}", ZERO) for number in range(100_000)), ("z", flipped(0))])
    report = world.find()
    assert (report.hashes.rows, len(report.hashes.distinct), report.stored) == (100_001, 2, 1)
    assert len(world.stored()) == 1
    assert len(world.view("SELECT * FROM near_duplicates LIMIT 3")) == 3
    assert world.view("SELECT count(*), min(media_id_b) FROM near_duplicates WHERE distance > 0") == [(100_000, "z")]
    assert world.view("SELECT count(*) FROM near_duplicates WHERE media_id_a = '000007'") == [(99_993,)]


def test_the_view_never_compares_all_pictures_with_all(world: World) -> None:
    """By the plan: a join by anything but equal hashes is quadratic, and only big lakes would feel it."""
    world.media([(f"{number:04d}", flipped(number % 64, number // 64)) for number in range(500)])
    world.find()
    for sql in ("SELECT * FROM near_duplicates", "SELECT count(*) FROM near_duplicates WHERE distance > 0"):
        ((_, plan),) = world.view(f"EXPLAIN (FORMAT json) {sql}")
        assert joins(json.loads(plan)) == {"HASH_JOIN"}


def joins(nodes: list[dict[str, Any]]) -> set[str]:
    """The kinds of joins in a plan."""
    below = [joins(node["children"]) for node in nodes]
    return {node["name"] for node in nodes if {"JOIN", "PRODUCT"} & set(node["name"].split("_"))}.union(*below)


def test_of_too_many_pairs_the_closest_are_kept(world: World) -> None:
    """Five thousand hashes around one, so that every two of them are a pair."""
    near = [sum(1 << bit for bit in bits) for size in range(4) for bits in itertools.combinations(range(64), size)]
    hashes = np.sort(np.array(near[:5_000], dtype=np.uint64))
    world.hashes(hashes)
    report = world.find(NearDuplicates(max_pairs=20_000))
    apart = [np.bitwise_count(hashes[number] ^ hashes[number + 1 :]) for number in range(5_000)]
    assert report.found == np.bincount(np.concatenate(apart), minlength=7).tolist()
    assert (report.stored, report.left_out) == (20_000, 5_000 * 4_999 // 2 - 20_000)
    closest = [
        (f"{hashes[a]:016x}", f"{hashes[a + 1 + b]:016x}", distance)
        for distance in (1, 2)
        for a in range(5_000)
        for b in np.flatnonzero(apart[a] == distance)
    ]
    assert world.stored() == closest[:20_000]
    assert closest[19_999][2] == 2
    assert len(closest) > 20_000
    assert world.view("SELECT count(*) FROM near_duplicates") == [(20_000,)]


def test_a_lake_that_is_no_folder() -> None:
    world = World(Lake("memory://bucket/near/lake"))
    world.media([("a", ZERO), ("b", flipped(1))])
    assert [world.find().searched, world.find().searched] == [True, False]
    assert world.view() == [("a", "b", 1)]
    world.lake.remove_folder("")


def test_equal_hashes_are_shown_before_the_first_search(world: World) -> None:
    world.media([("a", ZERO), ("b", ZERO), ("c", flipped(1))])
    assert world.view() == [("a", "b", 0)]
