"""`caption-assets status` and `query`: numbers that are right, and SQL in three styles."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import caption_assets.demo
from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE
from caption_assets.engine.protocol import EngineReply, EngineRequest
from caption_assets_tests.assets.running import PERSPECTIVES, Pipeline, answer, write_config
from caption_assets_tests.support import ScriptedEngine, lent, reply

DEMO_LIBRARY = Path(caption_assets.demo.__file__).parent / "perspectives"


@dataclass
class Lines:
    """A lake in every state: one shard done but for failures, one with half its media, one only planned."""

    pipeline: Pipeline

    def run(self, *arguments: str) -> Result:
        """Run the command line on it."""
        return CliRunner().invoke(main, list(arguments), env={CONFIG_VARIABLE: str(self.pipeline.config.file)})

    def status(self) -> dict[tuple[str, str], dict[str, Any]]:
        """`status --json`, by shard and perspective."""
        result = self.run("status", "--json")
        assert result.exit_code == 0, result.output
        return {(entry["shard"], entry["perspective"]): entry for entry in json.loads(result.output)}


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
    names = ("pictures", "done", "missing", "stale", "failed")
    return {name: entry[name] for name in names if entry[name]}


def test_every_shard_and_perspective_has_an_entry_with_its_numbers(lines: Lines) -> None:
    status = lines.status()
    assert status.keys() == {(f"demo-00000{number}", name) for number in range(3) for name in PERSPECTIVES}
    assert {entry["dataset"] for entry in status.values()} == {"demo"}
    assert counts(status["demo-000000", "scene_caption"]) == {"pictures": 3, "done": 3}
    assert counts(status["demo-000000", "scene_count"]) == {"pictures": 3, "done": 2, "failed": 1}
    assert counts(status["demo-000000", "synthesized_caption"]) == {"pictures": 3, "done": 2, "failed": 1}
    assert counts(status["demo-000001", "scene_count"]) == {"pictures": 2, "missing": 2}
    assert status["demo-000001", "scene_count"]["media_failures"] == 1
    assert counts(status["demo-000002", "scene_count"]) == {}
    assert (status["demo-000002", "scene_count"]["planned"], status["demo-000002", "scene_count"]["media"]) == (1, 0)


def test_the_table_says_it_in_words(lines: Lines) -> None:
    result = lines.run("status")
    assert result.exit_code == 0
    states = {
        tuple(line.split()[:2]): " ".join(line.split()[7:]) for line in result.output.splitlines() if "demo-" in line
    }
    assert states["demo-000000", "scene_caption"] == "done"
    assert states["demo-000000", "scene_count"] == "done with errors"
    assert states["demo-000001", "scene_count"] == "pending"
    assert states["demo-000002", "scene_count"] == "no media yet"


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
    assert counts(status["demo-000000", "scene_objects"]) == {"pictures": 3, "stale": 3}
    # The one without a synthesis was a failure of the earlier form, which says nothing about the new one.
    assert counts(status["demo-000000", "synthesized_caption"]) == {"pictures": 3, "stale": 2, "missing": 1}
    assert counts(status["demo-000000", "scene_caption"]) == {"pictures": 3, "done": 3}
    assert status["demo-000000", "scene_objects"]["why"] == "prompt changed"
    assert status["demo-000000", "synthesized_caption"]["why"] == "input scene_objects changed"
    assert status["demo-000000", "scene_caption"]["why"] is None
    assert status["demo-000000", "scene_objects"]["redo_seconds"] > 0
    told = [line for line in Lines(changed).run("status").output.splitlines() if line.startswith("scene_objects:")]
    assert len(told) == 1
    assert "3 stale (prompt changed), about" in told[0]
    changed.caption_new(lines.pipeline, "demo-000000")
    assert counts(Lines(changed).status()["demo-000000", "scene_objects"]) == {"pictures": 3, "done": 3}


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
    assert len(moved.status()) == 12


@pytest.mark.parametrize("command", [["status"], ["query", "SELECT 1"]])
def test_a_bad_pipeline_file_is_told_in_a_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "pipeline.yaml").write_text("lake: [")
    result = CliRunner().invoke(main, command, env={CONFIG_VARIABLE: str(tmp_path / "pipeline.yaml")})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}/pipeline.yaml: is not valid YAML")
