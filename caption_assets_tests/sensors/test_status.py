"""`status`: the asset `catalog` says how far all is, once for every change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from caption_assets.assets.catalog import CATALOG
from caption_assets.counts.views import StillCounting
from caption_assets.lake.status import NOTHING_KNOWN
from caption_assets.resources import PipelineResource
from caption_assets.sensors import status as sensor
from caption_assets.status.reading import read_status
from caption_assets_tests.assets.running import Pipeline, answer, write_config
from caption_assets_tests.support import ScriptedEngine, lent

SHARD = "demo-000000"


def pipeline_of(home: Path, pictures: Path) -> Pipeline:
    (home / "demo").mkdir()
    for file in sorted(pictures.glob("scene*"))[:4]:
        shutil.copy(file, home / "demo")
    config = write_config(home, {"demo": {"path": str(home / "demo"), "shard_size": 4, "settle_seconds": 0}})
    return Pipeline.of(config, lent(ScriptedEngine(answer)))


def tick(pipeline: Pipeline, cursor: str | None) -> dg.SensorResult:
    resources = {"pipeline": PipelineResource(config_file=str(pipeline.config.file))}
    context = dg.build_sensor_context(pipeline.instance, cursor, definitions=pipeline.defs, resources=resources)
    result: Any = pipeline.defs.resolve_sensor_def(sensor.STATUS)(context)
    assert isinstance(result, dg.SensorResult)
    return result


def told(result: dg.SensorResult) -> list[dict[str, Any]]:
    """The rows of the table that the UI is given."""
    (event,) = result.asset_events
    assert event.asset_key == CATALOG
    table = event.metadata["status"]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def test_the_ui_has_the_numbers_of_the_command(tmp_path: Path, pictures: Path) -> None:
    pipeline = pipeline_of(tmp_path, pictures)
    pipeline.ingest()
    planned = tick(pipeline, None)
    assert {row["perspective"]: row["missing"] for row in told(planned)}["media"] == 4
    assert pipeline.caption(SHARD).success
    done = tick(pipeline, planned.cursor)
    totals = read_status(pipeline.config, NOTHING_KNOWN).totals
    assert [(row["perspective"], row["pictures"], row["done"]) for row in told(done)] == [
        (each.perspective, each.total, each.done) for each in totals
    ]
    assert {row["done"] for row in told(done)} == {4}
    again = tick(pipeline, done.cursor)
    assert not again.asset_events
    assert "as before" in str(again.skip_reason)
    assert len(told(tick(pipeline, "of another version"))) == len(totals), "a lost cursor tells it once more"


def test_what_cannot_be_counted_in_time_is_told_later(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise StillCounting("3 of 5 shards are still to be counted")

    pipeline = pipeline_of(tmp_path, pictures)
    pipeline.ingest()
    known = tick(pipeline, None)
    with monkeypatch.context() as slow:
        slow.setattr(sensor, "read_status", never)
        waiting = tick(pipeline, known.cursor)
    assert not waiting.asset_events
    assert "still to be counted" in str(waiting.skip_reason)
    assert "as before" in str(tick(pipeline, waiting.cursor).skip_reason), "what was told stays known"
