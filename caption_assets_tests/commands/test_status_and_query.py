"""`caption-assets status` and `query`: numbers that are right, and SQL in three styles."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

import caption_assets.demo
from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets_tests.assets.running import PERSPECTIVES, Pipeline, answer, write_config
from caption_assets_tests.support import ScriptedEngine, lent, reply

STAGES = ["media", *PERSPECTIVES]
DEMO_LIBRARY = Path(caption_assets.demo.__file__).parent / "perspectives"


@dataclass
class Lines:
    """A lake in every state: one shard done but for failures, one with half its media, one only planned."""

    pipeline: Pipeline

    def run(self, *arguments: str) -> Result:
        """Run the command line on it."""
        return CliRunner().invoke(main, list(arguments), env={CONFIG_VARIABLE: str(self.pipeline.config.file)})

    def status(self) -> dict[tuple[str, str], dict[str, Any]]:
        """`status --json --shards`, by shard and perspective."""
        return {(entry["shard"], entry["perspective"]): entry for entry in self.document("--shards")["shards"]}

    def document(self, *options: str) -> dict[str, Any]:
        """`status --json`."""
        result = self.run("status", "--json", *options)
        assert result.exit_code == 0, result.output
        document: dict[str, Any] = json.loads(result.output)
        return document


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Lines:
    home = tmp_path_factory.mktemp("status")
    folder = home / "pictures"
    folder.mkdir()
    files = [Path(shutil.copy(file, folder)) for file in sorted(pictures.glob("scene*"))[:7]]
    files[4].write_bytes(files[4].read_bytes()[:200])
    refused: list[str] = []

    def script(request: EngineRequest) -> EngineReply:
        """No count for the first picture that is asked about."""
        picture, look = request.request_id.split("/")[1:]
        refused.extend([picture] if not refused else [])
        return reply("no JSON") if look.startswith("scene_count") and picture in refused else answer(request)

    config = write_config(home, {"demo": {"path": str(folder), "shard_size": 3}})
    pipeline = Pipeline.of(config, lent(ScriptedEngine(script)))
    pipeline.ingest()
    assert pipeline.caption("demo-000000").success
    assert pipeline.run("", "demo-000001", select=["media"]).success
    return Lines(pipeline)


def counts(entry: dict[str, Any]) -> dict[str, int]:
    """The numbers of an entry that are not zero."""
    names = ("total", "done", "missing", "stale", "failed")
    return {name: entry[name] for name in names if entry[name]}


def test_every_shard_and_perspective_has_an_entry_with_its_numbers(lines: Lines) -> None:
    status = lines.status()
    assert status.keys() == {(f"demo-00000{number}", name) for number in range(3) for name in STAGES}
    assert {entry["dataset"] for entry in status.values()} == {"demo"}
    assert counts(status["demo-000000", "scene_caption"]) == {"total": 3, "done": 3}
    assert counts(status["demo-000000", "scene_count"]) == {"total": 3, "done": 2, "failed": 1}
    assert counts(status["demo-000000", "synthesized_caption"]) == {"total": 3, "done": 2, "failed": 1}
    assert counts(status["demo-000001", "scene_count"]) == {"total": 2, "missing": 2}
    assert counts(status["demo-000001", "media"]) == {"total": 3, "done": 2, "failed": 1}
    assert counts(status["demo-000002", "scene_count"]) == {}
    assert counts(status["demo-000002", "media"]) == {"total": 1, "missing": 1}
    assert status["demo-000001", "media"]["failure_kinds"] == {"truncated": 1}
    assert status["demo-000000", "scene_count"]["failure_kinds"] == {"not_json": 1}
    states = {key: entry["state"] for key, entry in status.items()}
    assert states["demo-000000", "scene_caption"] == "done"
    assert states["demo-000000", "scene_count"] == "done with errors"
    assert states["demo-000001", "media"] == "done with errors"
    assert {states[f"demo-00000{number}", "scene_count"] for number in (1, 2)} == {"pending"}
    assert states["demo-000002", "media"] == "pending"


def test_totals_are_the_sums_of_the_shards(lines: Lines) -> None:
    document = lines.document()
    assert (document["shards"], document["shards_left_out"]) == ([], 0)
    totals = {each["perspective"]: each for each in document["totals"]}
    assert list(totals) == ["media", *sorted(PERSPECTIVES)]
    assert {each["shards"] for each in totals.values()} == {3}
    for name, total in totals.items():
        entries = [entry for (_, stage), entry in lines.status().items() if stage == name]
        for word in ("total", "done", "missing", "stale", "failed"):
            assert total[word] == sum(entry[word] for entry in entries), (name, word)
        assert total["total"] == total["done"] + total["failed"] + total["missing"] + total["stale"]
    assert totals["scene_count"]["states"] == {"pending": 2, "done with errors": 1}
    assert totals["media"]["failure_kinds"] == {"truncated": 1}
    assert {each["kind"] for each in document["failures"]} == {"truncated", "not_json", "input_missing"}


def test_the_table_says_it_in_words(lines: Lines) -> None:
    result = lines.run("status")
    assert result.exit_code == 0
    (row,) = [line for line in result.output.splitlines() if line.split()[:2] == ["demo", "scene_count"]]
    assert "3/5" in row
    assert "1 (not_json: 1)" in row
    assert row.rstrip().endswith("2 pending, 1 done with errors")
    assert "demo-000000" not in row
    shards = lines.run("status", "--shards", "--limit", "2").output
    assert shards.count("demo-00000") == 2
    assert "13 more shards' stages" in shards


def test_the_catalogs_view_shows_the_same(lines: Lines) -> None:
    with duckdb.connect(str(Path(lines.pipeline.config.lake) / "catalog.duckdb"), read_only=True) as catalog:
        rows = catalog.execute("SELECT shard, perspective, state, total, done, failed, missing FROM status").fetchall()
    told = {
        key: tuple(entry[name] for name in ("state", "total", "done", "failed", "missing"))
        for key, entry in lines.status().items()
    }
    assert {(row[0], row[1]): row[2:] for row in rows} == told


def test_a_changed_prompt_is_stale_until_it_is_captioned_again(lines: Lines, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    document = json.loads((DEMO_LIBRARY / "scene_objects.json").read_text())
    document["prompt"] += " Be quick."
    (tmp_path / "own" / "scene_objects.json").write_text(json.dumps(document))
    shutil.copytree(lines.pipeline.config.lake, tmp_path / "lake")
    folder = lines.pipeline.config.dataset_path("demo")
    changed = Pipeline.of(
        write_config(
            tmp_path,
            {"demo": {"path": str(folder), "shard_size": 3}},
            perspectives={"library": ["demo", "./own"], "enabled": PERSPECTIVES},
        ),
        lent(ScriptedEngine(answer)),
    )
    status = Lines(changed).status()
    assert counts(status["demo-000000", "scene_objects"]) == {"total": 3, "stale": 3}
    # The one without a synthesis was a failure of the earlier form, which says nothing about the new one.
    assert counts(status["demo-000000", "synthesized_caption"]) == {"total": 3, "stale": 2, "missing": 1}
    assert counts(status["demo-000000", "scene_caption"]) == {"total": 3, "done": 3}
    assert status["demo-000000", "scene_objects"]["why"] == "prompt changed"
    assert status["demo-000000", "synthesized_caption"]["why"] == "input scene_objects changed"
    assert status["demo-000000", "scene_caption"]["why"] is None
    assert status["demo-000000", "scene_objects"]["redo_seconds"] > 0
    told = [
        line for line in Lines(changed).run("status").output.splitlines() if line.startswith("demo, scene_objects:")
    ]
    assert len(told) == 1
    assert "3 stale (prompt changed), about" in told[0]
    changed.caption_new(lines.pipeline, "demo-000000")
    assert counts(Lines(changed).status()["demo-000000", "scene_objects"]) == {"total": 3, "done": 3}


def test_rows_as_a_table(lines: Lines) -> None:
    result = lines.run("query", "SELECT shard, '[bold]x' AS \"[b]\", NULL AS nothing FROM shards ORDER BY 1")
    assert result.exit_code == 0
    assert "[bold]x" in result.output
    assert "[b]" in result.output
    assert "demo-000002" in result.output
    assert result.output.endswith("3 rows\n")


def test_rows_as_csv(lines: Lines) -> None:
    result = lines.run("query", "--format", "csv", "SELECT shard, planned, 'a,\"b\"' AS odd FROM shards ORDER BY 1")
    read = list(csv.DictReader(io.StringIO(result.output)))
    assert read == [{"shard": f"demo-00000{n}", "planned": planned, "odd": 'a,"b"'} for n, planned in enumerate("331")]
    assert "\r" not in result.output


def test_rows_as_json(lines: Lines) -> None:
    sql = "SELECT media_id, tags, created_at, output FROM captions_scene_caption ORDER BY ALL"
    result = lines.run("query", "--format", "json", sql)
    read = json.loads(result.output)
    assert len(read) == 3
    assert read[0]["tags"] == ["red circle"]
    assert read[0]["output"]["caption"] == "A large red circle."
    assert read[0]["created_at"].startswith("20")


def test_a_mistake_in_sql_exits_1_with_duckdbs_words(lines: Lines) -> None:
    result = lines.run("query", "SELECT nosuch FROM captions")
    assert result.exit_code == 1
    assert "error: Binder Error" in result.stderr
    assert result.stdout == ""


def test_a_query_without_rows_and_a_statement_without_a_result(lines: Lines) -> None:
    assert lines.run("query", "--format", "json", "SELECT * FROM media WHERE false").output == "[]\n"
    assert lines.run("query", "CREATE TABLE mine (a INT)").exit_code == 0


def test_captions_can_be_read_though_the_pictures_are_gone(lines: Lines, tmp_path: Path) -> None:
    shutil.copytree(lines.pipeline.config.lake, tmp_path / "lake")
    (tmp_path / "gone").mkdir()
    moved = Lines(Pipeline.of(write_config(tmp_path, {"demo": {"path": "gone"}})))
    (tmp_path / "gone").rmdir()
    assert moved.run("query", "SELECT count(*) FROM media").exit_code == 0
    assert len(moved.status()) == 15


@pytest.mark.parametrize("command", [["status"], ["query", "SELECT 1"]])
def test_a_bad_pipeline_file_is_told_in_a_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "pipeline.yaml").write_text("lake: [")
    result = CliRunner().invoke(main, command, env={CONFIG_VARIABLE: str(tmp_path / "pipeline.yaml")})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}/pipeline.yaml: is not valid YAML")
