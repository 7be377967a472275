"""The lake's files: whole or absent, claimed once, whatever their names and whoever dies."""

import multiprocessing
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caption_assets.lake.store import Lake, table_bytes
from caption_assets_tests.lake import racing

PROCESSES = multiprocessing.get_context("spawn")
NAMES = ["plain", "with space", "100%", "%41", "a+b&c", "Größe", "e\u0301", "图片", "a'b", 'a"b', "a#b", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_round_trips(lake: Lake, name: str) -> None:
    path = f"some folder/{name}/{name}.bin"
    assert not lake.exists(path)
    lake.write(path, b"0123456789")
    assert lake.exists(path)
    assert lake.read(path) == b"0123456789"
    assert lake.read_range(path, 3, 4) == b"3456"
    assert lake.size(path) == 10
    assert lake.list("some folder") == [name]
    assert lake.list(f"some folder/{name}") == [f"{name}.bin"]
    with lake.open(path) as file:
        assert file.read() == b"0123456789"
    lake.remove(path)
    assert not lake.exists(path)
    assert lake.size(path) is None


def test_write_replaces_and_create_does_not(lake: Lake) -> None:
    assert lake.create("claim", b"first")
    assert not lake.create("claim", b"second")
    assert lake.read("claim") == b"first"
    lake.write("claim", b"third")
    assert lake.read("claim") == b"third"
    lake.remove("claim")
    assert lake.create("claim", b"fourth")


def test_put_exclusively_is_a_claim(lake: Lake) -> None:
    for content, wins in ((b"first", True), (b"second", False)):
        with lake.scratch() as file:
            file.write_bytes(content)
            assert lake.put(file, "a/b.tar", exclusive=True) is wins
        assert not file.exists()
    assert lake.read("a/b.tar") == b"first"


def test_place_appears_at_the_end_only(lake: Lake) -> None:
    with lake.place("media/x.tar") as file:
        file.write_bytes(b"half")
        assert not lake.exists("media/x.tar")
        assert lake.list("media") == []
        file.write_bytes(b"whole")
    assert lake.read("media/x.tar") == b"whole"


def test_place_that_fails_leaves_what_was_there(lake: Lake) -> None:
    lake.write("media/x.tar", b"before")
    scratch: list[Path] = []

    def fail_midway() -> None:
        with lake.place("media/x.tar") as file:
            scratch.append(file)
            file.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert lake.read("media/x.tar") == b"before"
    assert not scratch[0].exists()


def test_what_is_not_there(lake: Lake) -> None:
    assert lake.list("no/such/folder") == []
    lake.remove("no/such/file")
    lake.remove_folder("no/such/folder")
    for read in (lake.read, lake.read_table, lambda path: lake.read_range(path, 0, 1), lake.open):
        with pytest.raises(FileNotFoundError):
            read("no/such/file")


def test_list_shows_files_and_folders_once(lake: Lake) -> None:
    for path in ("d/b", "d/a", "d/c/x", "d/c/y", "dd/z"):
        lake.write(path, b"")
    assert lake.list("d") == ["a", "b", "c"]
    assert lake.list("d/a") == []
    lake.remove_folder("d")
    assert lake.list("d") == []
    assert lake.list("dd") == ["z"]


def test_urls_name_the_file(lake: Lake) -> None:
    lake.write("a/b", b"x")
    if lake.local:
        assert Path(lake.url("a/b")).read_bytes() == b"x"
        assert Path(lake.root.removeprefix("file://"), "a", "b").read_bytes() == b"x"
    else:
        assert lake.url("a/b") == f"{lake.root}/a/b"


@pytest.mark.usefixtures("empty_memory")
def test_the_bare_root_of_a_filesystem_is_a_root() -> None:
    lake = Lake("memory://")
    assert not lake.local
    lake.write("a/b", b"x")
    assert lake.url("a/b") == "memory://a/b"
    assert Lake("memory://a").read("b") == b"x"


def test_tables_round_trip(lake: Lake) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    lake.write("t.parquet", table_bytes(table))
    assert lake.read_table("t.parquet").equals(table)
    assert lake.read_table("t.parquet", ["b"]).column_names == ["b"]
    lake.write("t.parquet", table_bytes(table.slice(0, 0)))
    assert lake.read_table("t.parquet").schema == table.schema


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["write", "create", "remove"]), st.sampled_from("ab"), st.binary(max_size=9)))
)
def test_it_behaves_like_a_dictionary(lake: Lake, steps: list[tuple[str, str, bytes]]) -> None:
    lake.remove_folder("h")
    model: dict[str, bytes] = {}
    for step, name, data in steps:
        if step == "write":
            lake.write(f"h/{name}", data)
            model[name] = data
        elif step == "create":
            assert lake.create(f"h/{name}", data) == (name not in model)
            model.setdefault(name, data)
        else:
            lake.remove(f"h/{name}")
            model.pop(name, None)
        assert {entry: lake.read(f"h/{entry}") for entry in lake.list("h")} == model


def test_of_processes_racing_for_a_name_exactly_one_wins(folder_lake: Lake) -> None:
    count, start, answers = 300, PROCESSES.Barrier(3), PROCESSES.Queue()
    racers = [
        PROCESSES.Process(target=racing.create_all, args=(folder_lake.root, who, count, start, answers), daemon=True)
        for who in range(3)
    ]
    for racer in racers:
        racer.start()
    won = dict(answers.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(30)
    assert sorted(name for names in won.values() for name in names) == list(range(count))
    for who, names in won.items():
        for name in names:
            assert folder_lake.read(f"claims/{name}") == str(who).encode() * 1000
    assert folder_lake.list(".scratch") == []


def test_a_reader_never_sees_half_a_file(folder_lake: Lake) -> None:
    size, start = 300_000, PROCESSES.Barrier(2)
    folder_lake.write("hot", b"\0" * size)
    writer = PROCESSES.Process(target=racing.rewrite, args=(folder_lake.root, size, start), daemon=True)
    writer.start()
    start.wait(60)
    seen = set()
    until = time.monotonic() + 30
    while len(seen) < 20 and time.monotonic() < until:
        data = folder_lake.read("hot")
        assert len(data) == size
        assert data == data[:1] * size
        seen.add(data[0])
    writer.kill()
    writer.join()
    assert len(seen) == 20
    data = folder_lake.read("hot")
    assert data == data[:1] * size


@pytest.mark.parametrize("how", ["write", "create", "place"])
def test_a_killed_writer_leaves_no_visible_file(folder_lake: Lake, how: str) -> None:
    writer = PROCESSES.Process(target=racing.die_writing, args=(folder_lake.root, how))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -9
    assert not folder_lake.exists("media/half.tar")
    assert folder_lake.list("media") == []
    assert len(folder_lake.list(".scratch")) == 1
    assert folder_lake.create("media/half.tar", b"whole")


def test_only_old_strays_are_removed(folder_lake: Lake) -> None:
    folder_lake.remove_strays()  # nothing there yet
    with folder_lake.scratch() as fresh, folder_lake.scratch() as old:
        for file in (fresh, old):
            file.write_bytes(b"x")
        os.utime(old, (time.time() - 4000, time.time() - 4000))
        folder_lake.remove_strays()
        assert fresh.exists()
        assert not old.exists()


def test_a_link_of_our_own_counts_as_won(folder_lake: Lake) -> None:
    """NFS repeats a request whose answer was lost, and then says that the name exists."""
    with folder_lake.scratch() as file:
        file.write_bytes(b"ours")
        assert folder_lake.put(file, "claim", exclusive=True)
        assert folder_lake.put(file, "claim", exclusive=True)
