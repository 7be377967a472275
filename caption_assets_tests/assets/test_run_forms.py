"""A caption run says by which forms it works; a step of it that finds other files takes the run's forms, or fails."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from caption_assets import run_tags
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.forms import forms_of_run
from caption_assets.lake import layout
from caption_assets_tests.assets.running import Outcome
from caption_assets_tests.sensors.changing import Changing

RUN = "8f0cdd52-5d0f-4d0f-9d7c-0d6c2b1f4a11"


@pytest.fixture
def changing(tmp_path: Path, pictures: Path) -> Changing:
    return Changing(tmp_path, pictures)


def step(changing: Changing) -> Outcome:
    """A step of the run, in a process that has read the files just now."""
    job = changing.pipeline.defs.resolve_job_def("caption_job")
    result = job.execute_in_process(
        instance=changing.instance, partition_key="street-000000", run_id=RUN, raise_on_error=False
    )
    return Outcome(result)


def told(instance: dg.DagsterInstance) -> str:
    """The run's tag."""
    run = instance.get_run_by_id(RUN)
    assert run
    return run.tags[run_tags.FINGERPRINTS]


def test_a_step_takes_the_forms_that_its_run_began_with(changing: Changing) -> None:
    assert changing.pipeline.ingest("street").success
    began = bind_perspectives(changing.pipeline.config)
    forms_of_run(changing.pipeline.lake, RUN, began)
    changing.change("scene_caption")
    assert step(changing).success
    assert told(changing.instance) == " ".join(f"{each.name}={each.fingerprint}" for each in began.values())
    assert changing.query("SELECT DISTINCT fingerprint FROM captions_scene_caption") == [
        (began["scene_caption"].fingerprint,)
    ]
    assert changing.stale()["scene_caption", "stale"] == 2, "what changed meanwhile is for another run"


def test_a_step_that_cannot_have_its_run_s_forms_fails_with_the_reason(changing: Changing) -> None:
    assert changing.pipeline.ingest("street").success
    changing.pipeline.lake.write(layout.run_forms_file(RUN), json.dumps({"scene_caption": "f"}).encode())
    outcome = step(changing)
    assert not outcome.success
    assert "the run began with another selection of perspectives (scene_count, synthesized_caption)" in outcome.failures
    assert "the rest is for a new run" in outcome.failures
    assert not changing.engine.requests
