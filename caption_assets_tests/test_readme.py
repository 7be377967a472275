"""What the READMEs print can be used as printed: settings, commands, links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from caption_assets.cli import main
from caption_assets.config import PipelineConfig
from caption_assets.definitions import build_defs
from caption_assets.events.event import SCHEMA_FILE

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "deploy" / "README.md"]
TEXTS = [pytest.param(file, id=str(file.relative_to(ROOT))) for file in READMES]
PRICED = {"kind": "openai", "model": "m", "servers": ["http://vllm:8000/v1"], "prices": {"prompt": 1, "completion": 2}}


def blocks(file: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(file: Path) -> list[list[str]]:
    """The commands of the shell blocks, as words, without comments."""
    text = "\n".join(blocks(file, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


SETTINGS = [yaml.safe_load(text) for text in blocks(READMES[0], "yaml")]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "+".join(each))
def test_settings_are_valid(settings: dict[str, Any]) -> None:
    first = SETTINGS[0]
    assert {"lake", "datasets", "perspectives", "engines"} == set(first)
    priced = {"engines": {"default": PRICED}} if "recaption" in settings else {}
    datasets = first["datasets"] | settings.get("datasets", {})
    PipelineConfig.model_validate(first | priced | settings | {"datasets": datasets})


@pytest.mark.parametrize("file", TEXTS)
def test_commands_and_their_options_exist(file: Path) -> None:
    calls = [
        words[place + 1 :]
        for words in commands(file)
        for place, word in enumerate(words)
        if word.endswith("caption-assets") and words[place - 1] not in {"-n", "namespace"}
    ]
    assert calls
    for name, *arguments in calls:
        main.commands[name].make_context(name, arguments)


def test_jobs_that_are_launched_exist() -> None:
    jobs = {words[words.index("-j") + 1] for words in commands(READMES[0]) if "-j" in words}
    assert jobs
    assert jobs <= {job.name for job in build_defs().resolve_all_job_defs()}


@pytest.mark.parametrize("file", TEXTS)
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        linked = file.parent / target if target else file
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("text", blocks(READMES[0], "json")[-2:], ids=["callback", "alert"])
def test_events_have_fields_of_their_schema(text: str) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert json.loads(text)["type"] in schema["properties"]["type"]["enum"]
    assert names(json.loads(text)) <= properties(schema)


def names(value: Any) -> set[str]:
    """All keys of a document, but for the kinds of failures."""
    if isinstance(value, list):
        return set().union(*map(names, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(names(each) for key, each in value.items() if key != "failure_kinds"))


def properties(schema: Any) -> set[str]:
    """All properties that a schema defines anywhere."""
    if isinstance(schema, list):
        return set().union(*map(properties, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(properties, schema.values()))
