"""A pool of servers in the pipeline file: its mistakes are named, its key is read from the environment alone."""

from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import LAKE_VARIABLE, ConfigError, load_config
from caption_assets_tests.pipeline_files import complaints, document, write


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAKE_VARIABLE, raising=False)


POOL = {"kind": "openai", "model": "m", "servers": ["http://vllm-0:8000/v1/"]}
SECRET = "sk-very-secret-0123456789"
POOLS = [
    ({"servers": []}, "servers: must not be empty; add at least one entry"),
    ({"servers": ["vllm-0:8000"]}, "servers: entry 0 is no URL; write http://host:port/v1"),
    ({"servers": [f"http://me:{SECRET}@host/v1"]}, "servers: entry 0 holds more than an address; a key goes into"),
    ({"servers": [f"http://host/v1?key={SECRET}"]}, "servers: entry 0 holds more than an address; a key goes into"),
    ({"servers": ["http://a/v1", "http://a/v1/"]}, "servers: a server is there twice; remove one"),
    ({"api_key": SECRET}, "api_key: a key must not stand in the pipeline file; write {env: NAME} and set that"),
    ({"api_key": {"env": SECRET}}, "api_key.env: must be the name of an environment variable"),
    ({"api_key": {"value": SECRET, "env": "KEY"}}, "api_key.value: unknown key; the keys here are 'env'"),
    ({"max_in_flight": 0}, "max_in_flight: must be greater than or equal to 1, not 0"),
    ({"structured": "yes"}, "structured: must be one of 'auto', 'json_schema', 'json_object', 'prompt', not 'yes'"),
    ({"image": {"format": "gif"}}, "image.format: must be one of 'jpeg', 'png', not 'gif'"),
    ({"extra_body": {"model": "x"}}, "extra_body: 'model' is set by the pipeline; leave it out"),
    ({"max_in_fligth": 3}, "max_in_fligth: unknown key; did you mean 'max_in_flight'?"),
    ({"args": {}}, "args: unknown key; "),
]


@pytest.mark.parametrize(("changes", "expected"), POOLS)
def test_what_is_wrong_with_a_pool_of_servers(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (line,) = complaints(tmp_path, document(engines__default=POOL | changes))
    assert line.startswith(f"engines.default.{expected}")
    assert SECRET not in line


def test_a_pool_of_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"api_key": {"env": "POOL_KEY"}, "image": {"quality": 80}, "prices": {"prompt": 1.5, "completion": 6}}
    config = load_config(write(tmp_path, document(engines__default=POOL | options)))
    engine = config.engines["default"]
    assert engine.kind == "openai"
    assert engine.servers == ["http://vllm-0:8000/v1"]
    assert engine.api_key is not None
    monkeypatch.setenv("POOL_KEY", f" {SECRET}\n")
    assert engine.api_key.read("field") == SECRET
    assert SECRET not in repr(config)
    for unusable in ("", " ", "a\nb", "ä"):
        monkeypatch.setenv("POOL_KEY", unusable)
        with pytest.raises(ConfigError, match=r"^field: the environment variable POOL_KEY "):
            engine.api_key.read("field")
