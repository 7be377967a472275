"""Big bodies wait on disk, and are the same bytes."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import tempfile
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_assets.sources import stores
from caption_assets.sources.ahead import Ahead, Room
from caption_assets.sources.base import FetchError
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.spool import ALL_IN_MEMORY, IN_MEMORY, Joined, Spool


def written(size: int, piece: int = 300_000) -> tuple[Spool, bytes]:
    data = os.urandom(size)
    spool = Spool()
    for start in range(0, size, piece):
        spool.write(data[start : start + piece])
    return spool, data


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY])
def test_what_was_written_comes_back(size: int) -> None:
    spool, data = written(size)
    assert len(spool) == size
    assert spool.on_disk == (size > IN_MEMORY)
    assert spool.view()[7:1000] == data[7:1000]
    assert b"".join(spool.pieces()) == data
    assert spool.sha256() == hashlib.sha256(data).hexdigest()
    assert spool.take() == data


@pytest.mark.parametrize("size", [1000, 3 * IN_MEMORY])
def test_several_read_it_at_once(size: int) -> None:
    spool, data = written(size)
    with spool.open() as first, spool.open() as second:
        assert first.read(100) == data[:100]
        second.seek(-100, os.SEEK_END)
        assert second.read() == data[-100:]
        assert first.read() == data[100:]


def test_of_all_that_waits_little_is_in_memory() -> None:
    """And what nobody wants any more leaves its room to others, taken, closed or forgotten."""
    for end in (Spool.take, Spool.close, lambda spool: None):
        many = [Spool.of(bytes(1_500_000)) for _ in range(30)]
        inside = [len(spool) for spool in many if not spool.on_disk]
        assert ALL_IN_MEMORY - 1_500_000 <= sum(inside) <= ALL_IN_MEMORY
        for spool in many:
            end(spool)
        del many, spool
        gc.collect()


def test_an_error_frees_it() -> None:
    spool, _ = written(3 * IN_MEMORY)

    def broken() -> None:
        with spool:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        broken()
    with pytest.raises(ValueError, match="closed"):
        spool.write(b"more")


def test_no_room_for_temporary_files_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FetchError) as caught:
        Spool().write(bytes(3 * IN_MEMORY))
    assert caught.value.kind == "unreadable"
    assert "temporary file" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_waiting_body_tells_its_size_and_is_not_in_memory() -> None:
    spool, data = written(3 * IN_MEMORY)

    async def fetch(room: Room) -> bytes | Spool:
        room.exactly(len(data))
        return spool

    started = Ahead().start(fetch)
    assert started.size() == len(data)
    assert Future.result(started) == b""  # what the future itself holds
    assert started.result() == data


def test_a_body_that_fails_has_no_size() -> None:
    async def fetch(room: Room) -> bytes:
        raise FetchError("gone", "it is")

    started = Ahead().start(fetch)
    assert started.size() == 0
    with pytest.raises(FetchError, match="it is"):
        started.result()


@pytest.mark.parametrize("size", [IN_MEMORY - 1, 2 * IN_MEMORY + 1, stores._PIECE + 1])
def test_of_a_store_it_comes_in_pieces(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "a.tif").write_bytes(data)
    source = BucketSource(f"file://{tmp_path}")
    (item,) = source.scan()
    assert source.start(item.uri, item.etag).result() == data


@given(
    st.lists(st.binary(max_size=5), min_size=1, max_size=4), st.lists(st.tuples(st.integers(0, 25), st.integers(1, 9)))
)
def test_files_one_behind_the_other_are_one(parts: list[bytes], reads: list[tuple[int, int]]) -> None:
    file, same = Joined([io.BytesIO(part) for part in parts]), io.BytesIO(b"".join(parts))
    assert file.seek(0, io.SEEK_END) == same.seek(0, io.SEEK_END)
    for place, count in reads:
        file.seek(place)
        same.seek(place)
        wanted, found = same.read(count), b""
        while len(found) < count and (piece := file.read(count - len(found))):
            found += piece
        assert found == wanted
        assert file.tell() == max(place, same.tell())
