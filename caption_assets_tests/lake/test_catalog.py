"""The catalog: views that never fail, say what is stale and why, and keep every perspective that ever was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import refresh_catalog
from caption_assets.lake.current import promote
from caption_assets.lake.definition import Wants
from caption_assets.lake.store import Lake, table_bytes
from caption_assets_tests.lake.hand import ONE, TEXT, TWO, Hand, look, rows

VIEWS = {
    *("media", "captions", "caption_rows", "captions_look", "failures", "shards", "runs", "contributors", "stale"),
    *("near_duplicates", "tombstones", "departures", "merges", "reconciliations", "status", "workers"),
}


def test_every_view_works_on_an_empty_lake(hand: Hand) -> None:
    wanted = {"look": look()}
    refresh_catalog(hand.lake, Wants(wanted))
    with duckdb.connect(hand.lake.path(layout.CATALOG), read_only=True) as views:
        names = {
            name for (name,) in views.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        }
        of_rows = {"look", "deleted", "away", "departed", "merged", "beat_files", "beats", "looks", "counts"} | {
            *("plan_counts", "media_counts", "normalisation_counts", "caption_counts", "open_counts", "failure_counts"),
        }
        assert names - of_rows == VIEWS  # of the schema `rows`
        for name in VIEWS:
            assert views.execute(f"SELECT * FROM {name}").fetchall() == [], name
        assert views.execute("SELECT perspective, fingerprint, inputs FROM perspectives").fetchall() == [
            ("look", "f2", [])
        ]
        assert views.execute("SELECT caption FROM captions_look").fetchall() == []


def test_rows_of_an_earlier_form_stand_in_and_are_converted(hand: Hand) -> None:
    old = pa.struct([("caption", pa.string()), ("score", pa.string()), ("dropped", pa.int64())])
    new = pa.struct([("caption", pa.string()), ("score", pa.int64()), ("tags", pa.list_(pa.string()))])
    hand.media(ONE, "a", "b")
    hand.captions("look", "f1", old, {each: {"caption": f"old {each}", "score": "7", "dropped": 1} for each in "ab"})
    hand.captions("look", "f2", new, {"a": {"caption": "new a", "score": 9, "tags": ["x"]}}, minute=1)
    promote(hand.lake, {"look": "f2"})
    wanted = {"look": look("f2", type_=new)}
    shown = rows(hand.lake, wanted, "SELECT media_id, is_current, caption, score, tags FROM captions_look ORDER BY 1")
    assert shown == [("a", True, "new a", 9, ["x"]), ("b", False, "old b", 7, None)]
    assert rows(hand.lake, wanted, "SELECT media_id, output->>'caption' FROM captions ORDER BY 1") == [
        ("a", "new a"),
        ("b", "old b"),
    ]
    assert rows(hand.lake, wanted, "SELECT media_id, reason FROM stale") == [("b", "stale")]
    # Before anything of the new form was promoted, the old one is what the views show.
    promote(hand.lake, {"look": "f1"})
    assert rows(hand.lake, wanted, "SELECT media_id, is_current, dropped FROM captions_look ORDER BY 1") == [
        ("a", True, 1),
        ("b", True, 1),
    ]


REGIONS = pa.struct(
    [
        (
            "regions",
            pa.list_(
                pa.struct(
                    [
                        ("index", pa.int64()),
                        ("box", pa.list_(pa.float64())),
                        ("box_pixels", pa.list_(pa.int64())),
                        ("species", pa.string()),
                        ("model", pa.string()),
                    ]
                )
            ),
        ),
        ("outside", pa.int64()),
        ("over_limit", pa.int64()),
    ]
)


def test_regions_stand_in_a_row_each(hand: Hand) -> None:
    def region(index: int) -> dict[str, Any]:
        return {"index": index, "box": [0.0, 0.0, 0.5, 1.0], "box_pixels": [0, 0, 5, 9], "species": f"s{index}"}

    wanted = {"look": look(type_=REGIONS)}
    assert rows(hand.lake, wanted, "SELECT * FROM regions_look") == [], "before there is any picture"
    hand.media(ONE, "a", "b", "c")
    hand.captions("look", "f1", TEXT, {"c": {"caption": "of the whole picture, in an earlier form"}})
    outputs = {"a": [region(0), {**region(2), "model": "of a car"}], "b": []}
    full = {each: {"regions": found, "outside": 0, "over_limit": 0} for each, found in outputs.items()}
    hand.captions("look", "f2", REGIONS, full, minute=1, model="vlm")
    promote(hand.lake, {"look": "f2"})
    found = rows(hand.lake, wanted, "SELECT media_id, index, species, box_pixels, model FROM regions_look ORDER BY ALL")
    assert found == [("a", 0, "s0", [0, 0, 5, 9], "vlm"), ("a", 2, "s2", [0, 0, 5, 9], "vlm")]
    assert rows(hand.lake, wanted, "SELECT region.model FROM regions_look WHERE index = 2") == [("of a car",)]
    assert rows(hand.lake, wanted, "SELECT media_id, len(regions) FROM captions_look ORDER BY 1") == [
        ("a", 2),
        ("b", 0),
        ("c", None),
    ]


def test_a_list_that_is_called_regions_but_has_no_boxes_gets_no_view(hand: Hand) -> None:
    wines = pa.struct([("regions", pa.list_(pa.string()))])
    hand.captions("look", "f2", wines, {"a": {"regions": ["Mosel"]}})
    names = rows(hand.lake, {"look": look(type_=wines)}, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert ("captions_look",) in names
    assert ("regions_look",) not in names


def test_files_of_a_release_without_source_digests_are_still_shown(hand: Hand) -> None:
    hand.media(ONE, "a")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "old"}})
    folder = f"captions/perspective=look/fingerprint=f2/dataset=demo/shard={ONE.key}"
    for file in hand.lake.list(folder):
        table = hand.lake.read_table(f"{folder}/{file}").drop_columns("source_digest")
        hand.lake.write(f"{folder}/{file}", table_bytes(table))
    # without `wanted` for it, so that there is no file of today's either
    wanted = {"other": look()}
    assert rows(hand.lake, wanted, "SELECT media_id, source_digest FROM captions WHERE perspective = 'look'") == [
        ("a", None)
    ]


def test_the_latest_of_several_rows_counts(hand: Hand) -> None:
    hand.media(ONE, "a")
    for minute, text in enumerate(["first", "second", "third"]):
        hand.captions("look", "f2", TEXT, {"a": {"caption": text}}, minute=minute)
    assert rows(hand.lake, {"look": look()}, "SELECT caption FROM captions_look") == [("third",)]


def test_a_perspective_that_left_the_pipeline_file_stays(hand: Hand) -> None:
    hand.media(ONE, "a")
    hand.captions("gone", "f1", TEXT, {"a": {"caption": "still here"}})
    promote(hand.lake, {"gone": "f1"})
    wanted = {"look": look()}
    assert rows(hand.lake, wanted, "SELECT caption, is_current FROM captions_gone") == [("still here", True)]
    assert rows(hand.lake, wanted, "SELECT perspective FROM captions") == [("gone",)]
    assert rows(hand.lake, wanted, "SELECT perspective FROM stale") == [("look",)], (
        "nobody asks for the one that is gone"
    )


def test_folders_that_a_killed_writer_left_empty_break_no_view(hand: Hand) -> None:
    hand.media(ONE, "a")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "fine"}})
    for left in ("perspective=look/fingerprint=dead/dataset=demo/shard=demo-000000", "perspective=dead", ".DS_Store"):
        Path(hand.lake.path(f"captions/{left}")).mkdir(parents=True)
    assert rows(hand.lake, {"look": look()}, "SELECT caption FROM captions_look") == [("fine",)]
    assert rows(hand.lake, {"look": look()}, "SELECT count(*) FROM captions") == [(1,)]


def test_odd_field_names_become_columns_and_ours_win(hand: Hand) -> None:
    odd = pa.struct([("select", pa.string()), ("shard", pa.string()), ("Order", pa.int64())])
    hand.media(ONE, "a")
    hand.captions("look", "f2", odd, {"a": {"select": "x", "shard": "theirs", "Order": 3}})
    wanted = {"look": look(type_=odd)}
    found = rows(hand.lake, wanted, 'SELECT "select", shard, "Order", output.shard FROM captions_look')
    assert found == [("x", ONE.key, 3, "theirs")]


@pytest.mark.parametrize("folder", ["o'hara's pictures", 'a "quoted" lake', "über [1] {x}?", "a lake::of 100%*"])
def test_any_folder_name_will_do(tmp_path: Path, folder: str) -> None:
    hand = Hand(Lake(str(tmp_path / folder)))
    hand.media(ONE, "a")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "here"}})
    refresh_catalog(hand.lake, Wants({"look": look()}))
    with duckdb.connect(hand.lake.path(layout.CATALOG), read_only=True) as views:
        assert views.execute("SELECT caption FROM captions_look").fetchall() == [("here",)]


def test_a_lake_that_is_no_folder(hand: Hand) -> None:
    """On fsspec's memory filesystem, which is to DuckDB what any object store is."""
    remote = Hand(Lake("memory://bucket/it's/lake"))
    remote.media(ONE, "a", "b")
    remote.captions("look", "f2", TEXT, {"a": {"caption": "far away"}})
    wanted = {"look": look()}
    assert rows(remote.lake, wanted, "SELECT caption FROM captions_look") == [("far away",)]
    assert rows(remote.lake, wanted, "SELECT media_id, reason FROM stale") == [("b", "missing")]
    refresh_catalog(remote.lake, Wants(wanted))
    assert remote.lake.exists(layout.CATALOG)


def test_the_file_works_from_another_folder(hand: Hand, tmp_path: Path) -> None:
    hand.media(ONE, "a")
    refresh_catalog(hand.lake, Wants({"look": look()}))
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import duckdb, sys; views = duckdb.connect(sys.argv[1], read_only=True); "
        "print(views.sql('SELECT media_id FROM stale').fetchall())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, hand.lake.path(layout.CATALOG)],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "[('a',)]\n"


def test_it_is_replaced_while_another_process_reads_it(hand: Hand) -> None:
    hand.media(ONE, "a")
    refresh_catalog(hand.lake, Wants({"look": look()}))
    catalog = Path(hand.lake.path(layout.CATALOG))
    code = (
        "import duckdb, sys; views = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); "
        "sys.stdin.readline(); print(views.sql('SELECT count(*) FROM media').fetchall(), "
        "[name for (name,) in views.sql('SELECT perspective FROM perspectives').fetchall()])"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    before = os.stat(catalog).st_ino
    hand.media(TWO, "b")
    refresh_catalog(hand.lake, Wants({"look": look(), "second": look("g1")}))
    assert os.stat(catalog).st_ino != before, "a new file, not the old one written over"
    out, _ = reader.communicate("go on\n", timeout=30)
    assert out == "[(2,)] ['look']\n", "its own manifest, over the lake as it is now"
    assert reader.returncode == 0
    with duckdb.connect(str(catalog), read_only=True) as views:
        assert views.execute("SELECT perspective FROM perspectives").fetchall() == [("look",), ("second",)]


def test_it_is_made_anew_only_when_its_definition_changed(hand: Hand) -> None:
    def made() -> int:
        refresh_catalog(hand.lake, Wants(wanted, retained, normalisation))
        return os.stat(hand.lake.path(layout.CATALOG)).st_mtime_ns

    wanted, retained, normalisation = {"look": look()}, ["other"], "n1"
    first = made()
    hand.media(ONE, "a")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "here"}})
    assert made() == first, "what is captioned shows by itself"
    promote(hand.lake, {"look": "f2"})
    promoted = made()
    retained = []
    other = made()
    wanted = {"look": look("f3")}
    third = made()
    normalisation = "n2"
    assert len({first, promoted, other, third, made()}) == 5
    Path(hand.lake.path(layout.CATALOG)).write_bytes(b"no database")
    assert made() != first
    assert rows(hand.lake, wanted, "SELECT caption FROM captions_look") == [("here",)]
    with duckdb.connect(hand.lake.path(layout.CATALOG), read_only=True) as views:
        assert views.execute("SELECT caption FROM captions_look").fetchall() == [("here",)]


def test_no_file_of_the_lake_is_opened_to_make_it(hand: Hand) -> None:
    hand.media(ONE, "a")
    hand.captions("look", "f1", TEXT, {"a": {"caption": "of an earlier form"}})
    damaged = f"{layout.captions_folder('look', 'f2', ONE)}/damaged.parquet"
    hand.lake.write(damaged, b"no Parquet")
    refresh_catalog(hand.lake, Wants({"look": look()}))
    with duckdb.connect(hand.lake.path(layout.CATALOG), read_only=True) as views:
        assert views.execute("SELECT media_id FROM media").fetchall() == [("a",)]
        with pytest.raises(duckdb.Error, match="damaged"):
            views.execute("FROM captions")
        hand.lake.remove(damaged)
        assert views.execute("SELECT output->>'caption' FROM captions").fetchall() == [("of an earlier form",)]


def test_a_lake_of_a_run_in_progress_can_be_read(hand: Hand) -> None:
    """Part files of the same shard, sealed or not, count once."""
    hand.media(ONE, "a", "b")
    hand.captions("look", "f2", TEXT, {"a": {"caption": "sealed"}})
    hand.captions("look", "f2", TEXT, {"a": {"caption": "sealed"}, "b": {"caption": "part"}}, minute=1)
    promote(hand.lake, {"look": "f2"})
    assert rows(hand.lake, {"look": look()}, "SELECT media_id, caption FROM captions_look ORDER BY 1") == [
        ("a", "sealed"),
        ("b", "part"),
    ]
    assert rows(hand.lake, {"look": look()}, "SELECT planned, media, captions FROM shards") == [(2, 2, 2)]


def test_a_removed_perspective_stays_and_is_never_stale(hand: Hand) -> None:
    typed = pa.struct([("caption", pa.string()), ("score", pa.int64())])
    hand.media(ONE, "a", "b")
    hand.captions("gone", "g1", typed, {"a": {"caption": "old", "score": 3}})
    hand.captions("look", "f2", TEXT, {each: {"caption": each} for each in "ab"})
    promote(hand.lake, {"gone": "g1", "look": "f2"})
    wanted = {"look": look("f2")}
    assert rows(hand.lake, wanted, "SELECT media_id, caption, score + 1 FROM captions_gone") == [("a", "old", 4)]
    assert rows(hand.lake, wanted, "SELECT perspective, enabled, count(*) FROM captions GROUP BY ALL ORDER BY 1") == [
        ("gone", False, 1),
        ("look", True, 2),
    ]
    assert rows(hand.lake, wanted, "SELECT * FROM stale") == []
    assert rows(hand.lake, wanted, "SELECT perspective, enabled FROM perspectives ORDER BY 1") == [
        ("gone", False),
        ("look", True),
    ]


def test_runs_of_an_earlier_release_have_no_cause(hand: Hand) -> None:
    earlier = pa.schema([field for field in tables.RUNS if field.name != "cause"])
    for path in ("runs/_/empty.parquet", layout.run_file("2026-01-01", "r", "captions")):
        run = [] if "_" in path.split("/") else [{"run_id": "r", "done": 2}]
        hand.lake.write(path, table_bytes(tables.table(run, earlier)))
    assert rows(hand.lake, {"look": look()}, "SELECT run_id, done, cause FROM runs") == [("r", 2, None)]
