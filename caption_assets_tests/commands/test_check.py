"""`caption-assets check`: what is wrong is said in one line with file, field and remedy, before a run."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

import caption_assets.demo
from caption_assets.cli import main
from caption_assets.config import CONFIG_VARIABLE
from caption_assets_tests.assets.running import PERSPECTIVES
from caption_assets_tests.engine.stub_server import MODEL, StubServer

DEMO_LIBRARY = Path(caption_assets.demo.__file__).parent / "perspectives"


class Checked:
    """A pipeline file that a test changes, and what `check` says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "pipeline.yaml"
        (folder / "pictures").mkdir()
        self.document: dict[str, Any] = {
            "lake": "./lake",
            "datasets": {"demo": {"kind": "folder", "path": "pictures"}},
            "perspectives": {"library": ["demo"], "enabled": list(PERSPECTIVES)},
            "engines": {"default": {"kind": "vllm", "model": "tiny"}},
        }

    def run(self) -> Result:
        """Write the file and check it."""
        self.file.write_text(yaml.safe_dump(self.document))
        return CliRunner().invoke(main, ["check"], env={CONFIG_VARIABLE: str(self.file)})

    def perspective(self, name: str, /, **changes: Any) -> Path:
        """Copy a demo perspective, changed, into the folder `own`."""
        document = json.loads((DEMO_LIBRARY / f"{name}.json").read_text()) | changes
        (self.folder / "own").mkdir(exist_ok=True)
        file = self.folder / "own" / f"{document['name']}.json"
        file.write_text(json.dumps(document))
        return file


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    return Checked(tmp_path)


def test_a_good_file_names_everything_and_exits_0(checked: Checked) -> None:
    result = checked.run()
    assert result.exit_code == 0, result.output
    for name in PERSPECTIVES:
        assert f"perspective {name}: enabled, engine default, fingerprint " in result.output
    assert "reads scene_caption, scene_objects, scene_count" in result.output
    assert f"dataset demo: folder {checked.folder}/pictures" in result.output
    assert "engine default: vllm tiny (" in result.output
    assert f"lake {checked.folder}/lake: readable and writable" in result.output
    assert result.output.endswith("all good\n")


def test_it_leaves_nothing_in_the_lake(checked: Checked) -> None:
    checked.run()
    assert [file for file in (checked.folder / "lake").rglob("*") if file.is_file()] == []


def test_a_perspective_that_is_not_enabled_is_named_too(checked: Checked) -> None:
    checked.document["perspectives"]["enabled"] = ["scene_count"]
    result = checked.run()
    assert "perspective scene_caption: not enabled" in result.output
    assert result.exit_code == 0


def test_an_override_is_noted(checked: Checked) -> None:
    file = checked.perspective("scene_count", prompt="How many objects are there?")
    checked.document["perspectives"]["library"] = ["demo", "./own"]
    result = checked.run()
    assert result.exit_code == 0, result.output
    assert f"scene_count: {file} overrides {DEMO_LIBRARY / 'scene_count.json'}" in result.output


def test_a_warning_exits_0(checked: Checked) -> None:
    checked.perspective("scene_count", context_template="There are {nosuch} objects.")
    checked.document["perspectives"]["library"] = ["demo", "./own"]
    result = checked.run()
    assert "warning: " in result.output
    assert "nosuch" in result.output
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("enabled", [True, False])
def test_a_defect_counts_where_the_perspective_is_enabled(checked: Checked, enabled: bool) -> None:
    file = checked.perspective("scene_count", name="my_count", prompt="  ")
    checked.document["perspectives"]["library"] = ["demo", "./own"]
    checked.document["perspectives"]["enabled"] = ["scene_caption", *(["my_count"] if enabled else [])]
    result = checked.run()
    assert f"error: {file}: prompt: the prompt is empty" in result.output
    assert result.exit_code == enabled


def test_each_error_of_a_library_stands_on_a_line_of_its_own(checked: Checked) -> None:
    files = [checked.perspective("scene_count", name=name, sampling={"max_tokens": 0}) for name in ("a", "b")]
    checked.document["perspectives"]["library"] = ["demo", "./own"]
    result = checked.run()
    lines = [line for line in result.output.splitlines() if "max_tokens" in line]
    assert [line.split(": sampling")[0] for line in lines] == [f"error: {file}" for file in files]


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("lakes", "./lake", "lakes: unknown key; did you mean 'lake'?"),
        ("datasets.demo.pth", "x", "datasets.demo.pth: unknown key; did you mean 'path'?"),
        ("datasets.demo.path", "absent", "datasets.demo.path: "),
        ("perspectives.enabled", ["scene_cuont"], 'Did you mean "scene_count"'),
        ("perspectives.enabled", ["scene_count", "synthesized_caption"], "scene_caption"),
        ("perspectives.inputs", {"synthesized_caption": ["nope"]}, "nope"),
        ("perspectives.library", ["./nowhere"], "nowhere"),
        ("engines.default.args", {"max_modle_len": 9}, "engines.default.args.max_modle_len"),
        ("engines.default.model", "./no-model", "no-model"),
        ("lake", "nosuch://bucket", "lake: nosuch://bucket cannot be used"),
        ("lake", "./pipeline.yaml", "lake: "),
    ],
)
def test_an_error_names_file_and_field_and_exits_1(checked: Checked, where: str, value: object, expected: str) -> None:
    *parents, last = where.split(".")
    section = checked.document
    for parent in parents:
        section = section[parent]
    section[last] = value
    result = checked.run()
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "told, not raised"
    assert expected in result.output
    assert str(checked.folder) in result.output


def test_all_sections_are_checked_though_one_is_wrong(checked: Checked) -> None:
    checked.document["lake"] = "nosuch://bucket"
    checked.document["perspectives"]["enabled"] = ["nope"]
    result = checked.run()
    assert "sections with errors: 2" in result.output
    assert "engine default: vllm tiny" in result.output


def test_an_absent_pipeline_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check"], env={CONFIG_VARIABLE: str(tmp_path / "none.yaml")})
    assert result.exit_code == 1
    assert f"error: {tmp_path}/none.yaml: there is no such pipeline file; set {CONFIG_VARIABLE}" in result.output


def test_a_model_that_is_not_pinned_is_a_warning(checked: Checked) -> None:
    checked.document["engines"]["default"]["model"] = "some/model"
    result = checked.run()
    assert result.exit_code == 0, result.output
    assert "warning: " in result.output
    assert "engines.default.revision: the model is not pinned" in result.output


def lint(folder: Path) -> Result:
    """`check --library`."""
    return CliRunner().invoke(main, ["check", "--library", str(folder)])


def test_a_folder_of_perspectives_by_itself(checked: Checked) -> None:
    checked.perspective("scene_count")
    result = lint(checked.folder / "own")
    assert result.exit_code == 0, result.output
    assert "perspective scene_count: " in result.output
    assert result.output.endswith("1 perspectives, 0 errors, 0 warnings\n")


def test_a_placeholder_that_names_no_field_is_a_warning(checked: Checked) -> None:
    file = checked.perspective("scene_count", context_template="There are {nosuch} objects.")
    result = lint(checked.folder / "own")
    assert result.exit_code == 0, result.output
    assert f"warning: {file}: context_template: " in result.output
    assert result.output.endswith("1 perspectives, 0 errors, 1 warnings\n")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_file_that_is_no_perspective_is_an_error(checked: Checked, text: str) -> None:
    checked.perspective("scene_count").write_text(text)
    result = lint(checked.folder / "own")
    assert result.exit_code == 1
    assert str(checked.folder / "own" / "scene_count.json") in result.output


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = lint(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output


def test_a_relative_folder_is_relative_to_where_one_stands(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    checked.perspective("scene_count")
    monkeypatch.chdir(checked.folder)
    assert lint(Path("own")).exit_code == 0


def test_servers_are_looked_at_and_what_is_wrong_is_a_warning(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTION_ASSETS_TEST_KEY", "sk-very-secret-0123456789")
    with StubServer() as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        absent = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        pool = {"kind": "openai", "model": MODEL, "revision": "1", "servers": [server.url, absent]}
        checked.document["engines"]["default"] = pool | {"api_key": {"env": "CAPTION_ASSETS_TEST_KEY"}}
        result = checked.run()
        assert result.exit_code == 0, result.output
        assert f"engine default: openai {MODEL} (1) on 2 servers, 1 ready" in result.output
        assert f"engines.default.servers: {absent}: does not answer (ClientConnectorError" in result.output
        assert "sk-very" not in result.output
        checked.document["engines"]["default"] = pool | {"model": "other", "servers": [server.url]}
        result = checked.run()
        assert result.exit_code == 0
        assert f"serves no model 'other', only {MODEL}; correct the name" in result.output


def test_a_key_that_is_not_set_is_an_error(checked: Checked) -> None:
    pool = {"kind": "openai", "model": MODEL, "servers": ["http://127.0.0.1:9/v1"], "api_key": {"env": "NO_SUCH_KEY"}}
    checked.document["engines"]["default"] = pool
    result = checked.run()
    assert result.exit_code == 1
    assert "engines.default.api_key: the environment variable NO_SUCH_KEY is not set" in result.output


def test_every_dataset_is_listed_with_its_kind(checked: Checked) -> None:
    checked.folder.joinpath("list.jsonl").touch()
    checked.folder.joinpath("list.csv").write_text("link\nhttp://x.test/1")
    (checked.folder / "store").mkdir()
    for name, entry in {
        "lines": {"kind": "jsonl", "path": "list.jsonl"},
        "links": {"kind": "url_list", "path": "list.csv"},
        "store": {"kind": "bucket", "url": f"file://{checked.folder}/store", "watch": True},
        "hub": {"kind": "huggingface", "path": "owner/name"},
    }.items():
        checked.document["datasets"][name] = entry
    result = checked.run()
    assert result.exit_code == 0, result.output
    assert f"dataset lines: jsonl {checked.folder}/list.jsonl\n" in result.output
    assert f"dataset store: bucket file://{checked.folder}/store, watched\n" in result.output
    assert "dataset hub: huggingface owner/name\n" in result.output
    assert f"warning: {checked.file}: datasets.store: there is nothing in it yet\n" in result.output
    assert "datasets.links: its first entry is unusable: the row has no text in url\n" in result.output


def test_what_is_wrong_with_a_dataset_is_told_by_field(checked: Checked) -> None:
    pq.write_table(pa.table({"n": [1]}), checked.folder / "set.parquet")
    checked.folder.joinpath("list.parquet").write_bytes(b"none")
    for name, entry in {
        "a": {"kind": "bucket", "url": f"file://{checked.folder}/absent"},
        "b": {"kind": "bucket", "url": "gdrive://x"},
        "c": {"kind": "webdataset", "path": "tars/*.tar"},
        "d": {"kind": "huggingface", "path": "./set.parquet", "image": "x", "streaming": True},
        "e": {"kind": "huggingface", "path": "./set.parquet", "image": "n", "columns": ["y"], "streaming": True},
        "f": {"kind": "url_list", "path": "list.parquet"},
    }.items():
        checked.document["datasets"][name] = entry
    result = checked.run()
    assert result.exit_code == 1
    for line in [
        f"datasets.a.url: file://{checked.folder}/absent cannot be read: ",
        "datasets.b.url: gdrive://x cannot be opened: ",
        f"datasets.c.path: {checked.folder}/tars/*.tar cannot be read: file://",
        f"datasets.d.image: {checked.folder}/set.parquet has no column 'x', only n; correct it",
        f"datasets.e.columns: {checked.folder}/set.parquet has no column 'y', only n; correct it",
        f"datasets.f.path: {checked.folder}/list.parquet cannot be read: cannot be read as Parquet after row 0",
    ]:
        assert f"error: {checked.file}: {line}" in result.output
    assert "dataset demo: folder" in result.output


def test_callbacks_are_listed_without_their_keys(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "never-shown")
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    checked.document["callbacks"] = [
        {"url": "https://a.example/never-shown", "secret": {"env": "HOOK_SECRET"}, "events": ["job.failed"]},
        {"url": "https://b.example:8443/", "token": {"env": "HOOK_TOKEN"}, "datasets": ["demo"]},
    ]
    result = checked.run()
    assert result.exit_code == 0, result.output
    assert "callback a.example: signed, job.failed of all datasets" in result.output
    assert "callback b.example:8443: unsigned, all events of demo" in result.output
    assert "callbacks.1.token: the environment variable HOOK_TOKEN is not set" in result.output
    assert "never-shown" not in result.output


def test_a_callback_to_a_private_address_is_an_error_unless_it_is_allowed(checked: Checked) -> None:
    checked.document["callbacks"] = [{"url": "http://127.0.0.1:9/hook"}]
    result = checked.run()
    assert result.exit_code == 1
    assert "callbacks.0.url: 127.0.0.1 is not an address of the public internet; allow_hosts" in result.output
    checked.document["callbacks"][0]["allow_hosts"] = ["127.0.0.1"]
    assert checked.run().exit_code == 0
