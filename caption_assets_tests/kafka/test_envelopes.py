"""The topics: what the code, the schema and the README say of them is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from caption_assets.config.kafka import Topic
from caption_assets.kafka.envelope import INCOMING, SCHEMA_FILE

PLANNED = {
    "media.uploaded", "media.processed", "captions.request", "captions.result", "captions.failed", "jobs.created",
    "jobs.status", "job_items.completed", "job_items.failed", "perspectives.updated", "system.logs", "system.metrics",
}  # fmt: skip


def test_every_planned_topic_is_served_has_a_schema_and_a_row_in_the_readme() -> None:
    assert {*get_args(Topic), *INCOMING} == PLANNED
    definitions = json.loads(SCHEMA_FILE.read_text())["$defs"]
    assert definitions["incoming"]["properties"]["type"]["enum"] == list(INCOMING)
    assert set(definitions["outgoing"]["properties"]["type"]["enum"]) == set(get_args(Topic))
    readme = (Path(__file__).parents[2] / "README.md").read_text().partition("\n## Kafka\n")[2]
    rows = re.findall(r"^\| (.+?) \|", readme.partition("\n## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z]+)`", row)} == PLANNED
