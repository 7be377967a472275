"""`code_reload`: tells when files have changed, refuses invalid ones once, and asks the right server."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RegisteredCodeLocationOrigin

from caption_assets.sensors import code_reload
from caption_assets_tests.sensors.changing import Changing, why_not


@pytest.fixture
def changing(tmp_path: Path, pictures: Path) -> Changing:
    return Changing(tmp_path, pictures)


def tick(changing: Changing) -> str:
    return why_not(changing.tick("code_reload"))


def test_files_as_they_were_loaded_need_nothing(changing: Changing) -> None:
    assert tick(changing) == "perspectives and pipeline file are as they were loaded"
    changing.change("scene_caption")
    assert tick(changing) == "perspectives and pipeline file are as they were loaded"


def test_an_invalid_perspective_is_refused_once_by_file_and_field(
    changing: Changing, capfd: pytest.CaptureFixture[str]
) -> None:
    changing.save("scene_caption", schema_fields=[{"name": "caption", "type": "colour"}])
    told = tick(changing)
    assert told.startswith("not loaded: ")
    assert "scene_caption.json" in told
    assert "schema_fields[0].type" in told
    assert "ERROR" in "".join(capfd.readouterr())
    assert tick(changing) == "the files are as they were refused; the earlier ones stay loaded"
    assert "ERROR" not in "".join(capfd.readouterr())
    changing.save("scene_caption", schema_fields=[{"name": "caption", "type": "number"}])
    assert "schema_fields[0].type" in tick(changing), "other files are looked at anew"


def test_an_invalid_pipeline_file_is_refused_by_field(changing: Changing) -> None:
    changing.save_pipeline(recaption={"policy": "some"})
    assert "recaption.policy: must be one of 'off', 'new_only', 'all', not 'some'" in tick(changing)
    changing.save_pipeline(recaption={"policy": "all"})
    assert tick(changing).startswith("the files have changed")


def test_files_put_back_are_no_change(changing: Changing) -> None:
    prompt = changing.prompt("scene_caption")
    changing.save("scene_caption", prompt="")
    tick(changing)
    changing.save("scene_caption", prompt=prompt)
    changing.load()
    assert tick(changing) == "perspectives and pipeline file are as they were loaded"


def test_a_reload_that_changed_nothing_is_asked_for_again_later(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing.save("scene_caption", prompt="Another.")
    assert tick(changing) == "the files have changed, but this process is no server: restart it"
    assert tick(changing).startswith("a reload was asked for, but this server still has the earlier files; ")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 121)
    assert tick(changing) == "the files have changed, but this process is no server: restart it"


@pytest.mark.parametrize("cursor", ["", "7", "[]", "no JSON", '{"version": 0}', '{"version": 1, "state": "refused"}'])
def test_a_cursor_that_is_not_ours_is_none(changing: Changing, cursor: str) -> None:
    changing.save("scene_caption", prompt="Another.")
    changing.cursor = cursor
    assert tick(changing) == "the files have changed, but this process is no server: restart it"
    assert json.loads(changing.cursor or "")["version"] == 1


class _Context:
    def __init__(self, origin: object) -> None:
        self.code_location_origin = origin


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_ASSETS_WEBSERVER", "http://127.0.0.1:9")
    told = code_reload._reload(_Context(RegisteredCodeLocationOrigin("here")))  # type: ignore[arg-type]
    assert "could not be loaded again: http://127.0.0.1:9 does not answer" in told
    assert "set CAPTION_ASSETS_WEBSERVER" in told
    monkeypatch.setattr(code_reload, "_RELOAD_SECONDS", 2)
    told = code_reload._reload(_Context(GrpcServerCodeLocationOrigin("localhost", 9)))  # type: ignore[arg-type]
    assert "could not be loaded again" in told


def test_a_server_that_is_slow_to_load_is_not_called_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_reload, "_RELOAD_SECONDS", 1)
    with socket.create_server(("localhost", 0)) as silent:
        origin = GrpcServerCodeLocationOrigin("localhost", silent.getsockname()[1])
        told = code_reload._reload(_Context(origin))  # type: ignore[arg-type]
    assert told == "the files have changed: the code location takes longer than 1 s to load again"
