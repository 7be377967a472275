"""The `callbacks` section: mistakes are named, and no key or path of a URL is ever shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from caption_assets.config import ConfigError, PipelineConfig, load_config

URL = "https://hooks.example.org/path-never-shown"


def load(folder: Path, *callbacks: Any) -> PipelineConfig:
    """A pipeline file over the dataset `street`."""
    (folder / "pictures").mkdir(exist_ok=True)
    document = {
        "lake": "./lake",
        "datasets": {"street": {"kind": "folder", "path": "pictures"}},
        "perspectives": {"library": ["demo"], "enabled": ["scene_count"]},
        "engines": {"default": {"kind": "vllm", "model": "tiny"}},
        "callbacks": list(callbacks),
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_config(file)


def complaint(folder: Path, *callbacks: Any) -> str:
    """What is wrong with them, in a line."""
    with pytest.raises(ConfigError) as caught:
        load(folder, *callbacks)
    (line,) = str(caught.value).split("\n")
    assert "never-shown" not in line
    return line.removeprefix(f"{folder / 'pipeline.yaml'}: ")


def test_all_options(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {"url": URL},
        {
            "url": "http://hooks.internal:8080/x?y=z",
            "secret": {"env": "HOOK_SECRET"},
            "token": {"env": "HOOK_TOKEN"},
            "datasets": ["street"],
            "events": ["shard.captions", "job.failed"],
            "allow_hosts": ["hooks.internal"],
            "timeout_seconds": 5,
        },
    )
    plain, full = config.callbacks
    assert (plain.secret, plain.datasets, plain.events, plain.host) == (None, [], [], "hooks.example.org")
    assert full.secret is not None
    assert full.secret.env == "HOOK_SECRET"
    assert full.host == "hooks.internal:8080"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"url": "hooks.example.org"}, "callbacks.0.url: is no URL; write https://host/path"),
        ({"url": "ftp://host/path-never-shown"}, "callbacks.0.url: is no URL; write https://host/path"),
        ({"url": "https://host:99999/"}, "callbacks.0.url: is no URL; write https://host/path"),
        ({"url": "https://me:never-shown@host/"}, "callbacks.0.url: holds a user or a password; put a key into token"),
        ({"url": "https://host/#x"}, "callbacks.0.url: holds a '#', which is never sent"),
        ({"url": 7}, "callbacks.0.url: must be text"),
        ({"secret": "never-shown"}, "callbacks.0.secret: a key must not stand in the pipeline file; write {env: NAME}"),
        ({"token": "never-shown"}, "callbacks.0.token: a key must not stand in the pipeline file; write {env: NAME}"),
        ({"secret": {"env": "never-shown"}}, "callbacks.0.secret.env: must be the name of an environment variable"),
        ({"events": ["shard.done"]}, "callbacks.0.events.0: must be one of 'shard.media', 'shard.captions', "),
        ({"datasets": ["steet"]}, "callbacks: entry 0: there is no dataset 'steet'; the datasets are 'street'"),
        ({"urls": URL}, "callbacks.0.urls: unknown key; did you mean 'url'?"),
        ({"timeout_seconds": 60}, "callbacks.0.timeout_seconds: must be less than or equal to 20"),
        (
            {"url": "http://hooks.example.org/x", "token": {"env": "HOOK_TOKEN"}},
            "callbacks.0: a token over http can be read on the way; use https, or name the host in allow_hosts",
        ),
    ],
)
def test_mistakes(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    assert complaint(tmp_path, {"url": URL, **options}).startswith(expected)


def test_a_url_twice(tmp_path: Path) -> None:
    told = complaint(tmp_path, {"url": URL, "events": ["job.failed"]}, {"url": URL})
    assert told == "callbacks: entry 1: its url is there twice; join the two entries"
