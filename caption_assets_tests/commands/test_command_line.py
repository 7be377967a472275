"""The real command lines, each in a process of its own: Dagster's jobs, ours, and the demo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from caption_assets.config import CONFIG_VARIABLE
from caption_assets_tests.assets.running import write_config

CHECKOUT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "caption-assets")
PAGE = 160


@dataclass
class Place:
    """A folder with a pipeline file and a Dagster instance."""

    home: Path

    @property
    def instance_folder(self) -> Path:
        """DAGSTER_HOME."""
        return self.home / "dagster"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command here."""
        environment = {
            **os.environ,
            CONFIG_VARIABLE: str(self.home / "pipeline.yaml"),
            "DAGSTER_HOME": str(self.instance_folder),
            "CAPTION_ASSETS_LOCKS": str(self.home),  # this process may hold the device for the session's engine
            "COLUMNS": str(PAGE),
        }
        return subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=240)

    def job(self, name: str, partition: str) -> subprocess.CompletedProcess[str]:
        """`dagster job execute` on a partition."""
        tags = json.dumps({"dagster/partition": partition})
        module = ("-m", "caption_assets.definitions")
        return self.run(sys.executable, "-m", "dagster", "job", "execute", *module, "-j", name, "--tags", tags)

    def runs(self) -> list[dg.DagsterRun]:
        """The instance's runs, the latest first."""
        with dg.DagsterInstance.from_config(str(self.instance_folder)) as instance:
            return list(instance.get_runs())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.instance_folder.mkdir()
    shutil.copy(CHECKOUT / "deploy" / "local" / "dagster.yaml", place.instance_folder)
    return place


def test_jobs_by_dagsters_command_line(place: Place, pictures: Path) -> None:
    (place.home / "pictures").mkdir()
    for file in sorted(pictures.glob("scene*"))[:2]:
        shutil.copy(file, place.home / "pictures")
    looks = ["scene_caption", "scene_count"]
    write_config(place.home, {"demo": {"path": "pictures"}}, perspectives={"library": ["demo"], "enabled": looks})

    ingested = place.job("ingest_job", "demo")
    assert ingested.returncode == 0, ingested.stderr
    captioned = place.job("caption_job", "demo-000000")
    assert captioned.returncode == 0, captioned.stderr
    sql = "SELECT perspective, count(*) AS captions FROM captions GROUP BY ALL ORDER BY 1"
    queried = place.run(COMMAND, "query", "--format", "csv", sql)
    assert queried.stdout == "perspective,captions\nscene_caption,2\nscene_count,2\n"

    unplanned = place.job("caption_job", "demo-000007")
    assert unplanned.returncode == 1
    assert "demo-000007" in unplanned.stderr + unplanned.stdout

    (last, *_) = [run for run in place.runs() if run.is_success]
    waited = place.run(COMMAND, "wait", last.run_id)
    assert (waited.returncode, waited.stdout) == (0, f"run {last.run_id}: SUCCESS\n")


def test_the_demo_ends_with_its_table_and_a_second_time_does_nothing(place: Place) -> None:
    write_config(place.home, {"demo": {"path": "pictures", "shard_size": 4}}, check_paths=False)
    first = place.run(sys.executable, "-m", "caption_assets.demo", "--scenes", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Some of the pictures" in first.stdout
    assert "6 pictures, 24 captions, 0 failures." in first.stdout
    assert len(place.runs()) == 2

    started = time.monotonic()
    second = place.run(sys.executable, "-m", "caption_assets.demo", "--scenes", "2")
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - started < 10
    assert "nothing to do" in second.stdout
    assert "6 pictures, 24 captions, 0 failures." in second.stdout
    assert len(place.runs()) == 2
