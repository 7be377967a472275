"""Rows of deleted pictures leave every file of captions and caption failures, on every kind of root."""

from __future__ import annotations

import pyarrow as pa
import pytest

from caption_assets.lake import erasing, layout, tables
from caption_assets.lake.erasing import count_rows, erase
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.lake.tombstones import read_tombstones, write_tombstone

ONE, TWO = Shard("demo", 0), Shard("demo", 1)
TEXT = pa.struct([("caption", pa.string())])
COUNT = pa.struct([("count", pa.int64())])


def captions(lake: Lake, name: str, form: str, shard: Shard, file: str, type_: pa.DataType, *media_ids: str) -> str:
    """A file of caption rows; returns its path."""
    rows = [{"media_id": each, "shard": shard.key, "fingerprint": form} for each in media_ids]
    path = f"{layout.captions_folder(name, form, shard)}/{file}.parquet"
    lake.write(path, table_bytes(tables.table(rows, tables.captions_schema(type_))))
    return path


def failures(lake: Lake, stage: str, shard: Shard, *media_ids: str) -> str:
    rows = [{"stage": stage, "shard": shard.key, "media_id": each} for each in media_ids]
    path = layout.failures_file(stage, shard)
    lake.write(path, table_bytes(tables.table(rows, tables.FAILURES)))
    return path


def ids(lake: Lake, path: str) -> list[str]:
    return list(lake.read_table(path)["media_id"].to_pylist())


@pytest.mark.parametrize("shard", [ONE, None], ids=["in its shard", "everywhere"])
def test_rows_go_and_the_others_stay(lake: Lake, shard: Shard | None) -> None:
    mixed = captions(lake, "look", "f1", ONE, "sealed-r", TEXT, "a", "b", "c")
    alone = captions(lake, "look", "f1", ONE, "part-r-0", TEXT, "a")
    count = captions(lake, "count", "f2", ONE, "sealed-r", COUNT, "b", "a")
    clean = captions(lake, "count", "f3", ONE, "sealed-r", COUNT, "b")
    other = captions(lake, "look", "f1", TWO, "sealed-r", TEXT, "a", "d")
    failed = failures(lake, "look", ONE, "a", "c")
    media = failures(lake, "media", ONE, "a")
    before = lake.read(clean)
    assert count_rows(lake, {"a", "nowhere"}) == 4
    assert erase(lake, {"a", "nowhere"}, shard) == (4 if shard else 5)
    assert ids(lake, mixed) == ["b", "c"]
    assert lake.read_table(mixed).schema.equals(tables.captions_schema(TEXT))
    assert ids(lake, count) == ["b"]
    assert not lake.exists(alone)
    assert lake.read(clean) == before
    assert ids(lake, other) == (["a", "d"] if shard else ["d"])
    assert ids(lake, failed) == ["c"]
    assert ids(lake, media) == ["a"], "what stands in place of the media row stays"
    assert erase(lake, {"a"}, shard) == 0


def test_an_empty_lake_has_nothing_to_erase(lake: Lake) -> None:
    assert erase(lake, {"a"}) == erase(lake, {"a"}, ONE) == erase(lake, set()) == count_rows(lake, {"a"}) == 0


@pytest.mark.parametrize("count", [1, 20])
def test_files_that_are_sealed_away_while_we_look(
    folder_lake: Lake, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    parts = [captions(folder_lake, "look", "f1", ONE, f"part-r-{number}", TEXT, "a", "b") for number in range(count)]
    real = erasing.caption_files

    def files(lake: Lake, shard: Shard | None) -> list[str]:
        found = real(lake, shard)
        if parts:
            captions(lake, "look", "f1", ONE, "sealed-r", TEXT, "a", "b")
            lake.remove(parts.pop())
        return found

    monkeypatch.setattr(erasing, "caption_files", files)
    assert erase(folder_lake, {"a"}) == 1
    assert ids(folder_lake, f"{layout.captions_folder('look', 'f1', ONE)}/sealed-r.parquet") == ["b"]


def test_tombstones_are_read_as_they_were_written(lake: Lake) -> None:
    assert not read_tombstones(lake)
    write_tombstone(lake, [{"media_id": "a", "dataset": "d", "uri": "u1"}, {"dataset": "d", "uri": "u2"}])
    write_tombstone(lake, [{"media_id": "b"}])
    found = read_tombstones(lake)
    assert (found.media_ids, found.uris) == ({"a", "b"}, {("d", "u2")})
    assert found.forbid({"media_id": "a", "dataset": "any", "uri": "any"})
    assert found.forbid({"media_id": "c", "dataset": "d", "uri": "u2"})
    assert not found.forbid({"media_id": "c", "dataset": "d", "uri": "u1"}), "its bytes are forbidden, not its uri"
    assert not found.forbid({"media_id": "c", "dataset": "e", "uri": "u2"})


def test_find_names_files_at_any_depth(lake: Lake) -> None:
    for path in ("a/x", "a/b/y", "ab/z", "w"):
        lake.write(path, b"")
    assert lake.find("a") == ["a/b/y", "a/x"]
    assert [path for path in lake.find("") if not path.startswith(".scratch")] == ["a/b/y", "a/x", "ab/z", "w"]
    assert lake.find("nowhere") == []
