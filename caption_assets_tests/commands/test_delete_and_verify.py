"""`caption-assets delete` and `verify`: what they ask, show, do, and refuse."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE, PipelineConfig
from caption_assets.exports.formats import FORMATS, export_dataset
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index
from caption_assets.sources.planner import open_source
from caption_assets_tests.assets.running import answer, write_config
from caption_assets_tests.support import ScriptedEngine, bound_of, caption, ingest, lent

ONE, TWO, THREE = (Shard("demo", number) for number in range(3))


@dataclass
class Place:
    """A lake of three shards, of which the first is captioned."""

    config: PipelineConfig
    lake: Lake

    def run(self, *arguments: str, typed: str = "") -> Result:
        """Run the command line on it."""
        return CliRunner().invoke(
            main, list(arguments), input=typed, env={CONFIG_VARIABLE: str(self.config.file), "COLUMNS": "200"}
        )

    def rows(self, shard: Shard = ONE) -> list[dict[str, Any]]:
        return read_index(self.lake, shard)

    def files(self) -> dict[str, bytes]:
        return {path: self.lake.read(path) for path in self.lake.find("")}

    def segment(self, shard: Shard = ONE) -> Path:
        return Path(self.lake.path(f"media/dataset=demo/{self.rows(shard)[0]['segment']}"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    home = tmp_path_factory.mktemp("made")
    (home / "pictures").mkdir()
    for file in sorted(pictures.glob("scene*"))[:7]:
        shutil.copy(file, home / "pictures")
    config = write_config(home, {"demo": {"path": str(home / "pictures"), "shard_size": 3}})
    lake = Lake(config.lake)
    ingest(config, lake)
    caption(config, lake, [ONE], lent(ScriptedEngine(answer)))
    return home


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made / "lake", tmp_path / "lake")
    config = write_config(tmp_path, {"demo": {"path": str(made / "pictures"), "shard_size": 3}})
    return Place(config, Lake(config.lake))


def test_it_shows_asks_and_deletes(place: Place) -> None:
    row = place.rows()[0]
    result = place.run("delete", "--media-id", row["media_id"], "--reason", "wish", typed="y\n")
    assert result.exit_code == 0, result.output
    assert ["demo-000000", row["media_id"], row["uri"]] in [line.split() for line in result.output.splitlines()]
    assert "1 media rows, 4 caption rows" in result.output
    assert "Delete them for good? [y/N]: y" in result.output
    assert "Deleted 1 media rows and 4 rows of captions" in result.output
    assert len(place.rows()) == 2
    assert [each["kind"] for each in read_failures(place.lake, "media", ONE)] == ["deleted"]
    reasons = place.run("query", "--format", "csv", "SELECT DISTINCT reason, contributor FROM tombstones")
    assert reasons.output == "reason,contributor\nwish,local\n"


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_without_a_yes_nothing_happens(place: Place, typed: str) -> None:
    before = place.files()
    result = place.run("delete", "--media-id", place.rows()[0]["media_id"], "--reason", "wish", typed=typed)
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert place.files() == before


def test_a_dry_run_shows_it_and_does_nothing(place: Place) -> None:
    before = place.files()
    row = place.rows()[0]
    result = place.run("delete", "--uri", row["uri"], "--dataset", "demo", "--reason", "wish", "--dry-run")
    assert result.exit_code == 0
    assert row["media_id"] in result.output
    assert "dry run" in result.output
    assert place.files() == before


def test_a_list_of_media_ids_and_uris(place: Place, tmp_path: Path) -> None:
    by_id, by_uri = place.rows()[0], place.rows(TWO)[1]
    (tmp_path / "list").write_text(f"{by_id['media_id']}\r\n\n  {by_uri['uri']}\n{'0' * 64}\n", encoding="utf-8-sig")
    options = ("--file", str(tmp_path / "list"), "--dataset", "demo", "--reason", "wish", "--yes")
    result = place.run("delete", *options)
    assert result.exit_code == 0, result.output
    assert "not in the lake now, and never to come: " + "0" * 64 in result.output
    assert (len(place.rows(ONE)), len(place.rows(TWO)), len(place.rows(THREE))) == (2, 2, 1)
    again = place.run("delete", *options)
    assert (again.exit_code, len(place.lake.list("tombstones"))) == (0, 2), "the tombstone, and the views' empty one"


def test_exports_that_may_hold_it_are_named(place: Place) -> None:
    for each in FORMATS:
        export_dataset(place.lake, "demo", [ONE], bound_of(place.config), each)
    command = ("delete", "--media-id", place.rows()[0]["media_id"], "--reason", "wish", "--yes")
    result = place.run(*command)
    assert place.run(*command).output.count("make this export again") == len(FORMATS), "also when it is run again"
    for each in FORMATS:
        assert (
            f"{place.config.lake}/exports/{each.name}/demo may still hold them: make this export again" in result.output
        )


def test_no_run_makes_it_media_again(place: Place) -> None:
    place.run("delete", "--media-id", place.rows()[0]["media_id"], "--reason", "wish", "--yes")
    report = build_media(
        place.lake, ONE, open_source(place.config, "demo"), place.config.media, "later", force=True, verify=True
    )
    assert (report.planned, report.rows, report.failure_kinds) == (3, 2, {"deleted": 1})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "nothing to delete; give --media-id, --uri with --dataset, or --file"),
        (["--media-id", "ABC"], "--media-id: 'ABC' is no media_id; give its 64 hex digits, in lower case"),
        (["--uri", "a.jpg"], "--uri: 'a.jpg' is no media_id, so it is a URI; name its dataset with --dataset"),
        (["--uri", "a.jpg", "--dataset", "no"], "has no dataset 'no'; give one of demo"),
        (["--file", "list"], "list:2: 'b.jpg' is no media_id, so it is a URI; name its dataset with --dataset"),
        (["--file", "nowhere"], "--file: nowhere cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    (tmp_path / "list").write_text("0" * 64 + "\nb.jpg\n")
    monkeypatch.chdir(tmp_path)
    before = place.files()
    result = place.run("delete", *arguments, "--reason", "wish", "--yes")
    assert result.exit_code == 1
    assert told in result.stderr
    assert place.files() == before


def test_a_reason_is_asked_for(place: Place) -> None:
    result = place.run("delete", "--media-id", "0" * 64)
    assert result.exit_code == 2
    assert "--reason" in result.stderr


def states(result: Result) -> dict[str, str]:
    lines = (line.split(None, 4) for line in result.stdout.splitlines() if line.strip().startswith("demo-"))
    return {shard: state.strip() for shard, *_, state in (line for line in lines if not line[0].endswith(":"))}


def test_a_sound_lake_verifies(place: Place) -> None:
    result = place.run("verify")
    assert result.exit_code == 0, result.output
    assert states(result) == dict.fromkeys(["demo-000000", "demo-000001", "demo-000002"], "sound")


def test_damage_is_named_and_exits_1(place: Place) -> None:
    row = place.rows(TWO)[1]
    with place.segment(TWO).open("r+b") as file:
        file.seek(row["offset"] + 10)
        file.write(b"damaged")
    before = place.files()
    result = place.run("verify", "demo")
    assert result.exit_code == 1
    assert f"demo-000001: {row['media_id']} {row['uri']}: the picture's bytes are not those" in result.output
    assert states(result) == {"demo-000000": "sound", "demo-000001": "damaged", "demo-000002": "sound"}
    assert "1 pictures are damaged" in result.output
    assert place.run("verify", "demo-000000", "demo-000002").exit_code == 0
    assert place.files() == before, "it only reads"


def test_verify_says_what_there_is_not(place: Place) -> None:
    place.lake.remove("media/dataset=demo/demo-000002.parquet")
    assert states(place.run("verify", "demo-000002", "demo")) == {
        "demo-000002": "no media yet",
        "demo-000000": "sound",
        "demo-000001": "sound",
    }
    result = place.run("verify", "demo-000009")
    assert result.exit_code == 1
    assert "'demo-000009' is neither a dataset nor a shard of" in result.stderr
    assert "(demo)" in result.stderr
