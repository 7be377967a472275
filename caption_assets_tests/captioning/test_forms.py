"""A run works with the forms that it began with, in whatever process; what files are loaded is told by their digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from caption_assets.captioning import loaded as module
from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.captioning.forms import FormsChanged, changes_since, forms_of_run
from caption_assets.captioning.loaded import Loaded, files_digest, load, source_files
from caption_assets.config import PipelineConfig
from caption_assets.lake import layout
from caption_assets.lake.store import Lake
from caption_assets.perspectives.library import BUNDLED

ENABLED = ["scene_caption", "scene_objects", "scene_count", "synthesized_caption"]


class Files:
    """A pipeline file and a library of its own."""

    def __init__(self, folder: Path, make_config: Callable[..., PipelineConfig]) -> None:
        self.folder, self.make_config = folder / "perspectives", make_config
        shutil.copytree(BUNDLED["demo"], self.folder)

    def load(self, enabled: list[str] = ENABLED, model: str = "tiny", **sections: object) -> Loaded:
        """What a process reads that starts now."""
        chosen = {"library": ["./perspectives"], "enabled": enabled}
        engines = {"default": {"kind": "openai", "model": model, "servers": ["http://127.0.0.1:9/v1"]}}
        return load(self.make_config(perspectives=chosen, engines=engines, **sections))

    def save(self, name: str, **keys: object) -> None:
        """Change keys of a perspective file."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.fixture
def files(tmp_path: Path, make_config: Callable[..., PipelineConfig]) -> Files:
    return Files(tmp_path, make_config)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_a_later_process_takes_the_forms_of_the_first(files: Files, lake: Lake) -> None:
    first = files.load()
    assert forms_of_run(lake, "run", first.bound) == first.bound
    files.save("scene_caption", prompt="Another prompt.", schema_fields=[{"name": "text"}])
    later = files.load()
    assert later.bound["scene_caption"].fingerprint != first.bound["scene_caption"].fingerprint
    assert forms_of_run(lake, "run", later.bound) == first.bound, "its readers too"
    assert forms_of_run(lake, "another", later.bound) == later.bound


def test_the_change_of_a_form_is_still_named(files: Files, lake: Lake) -> None:
    forms_of_run(lake, "run", files.load().bound)
    files.save("scene_caption", prompt="Another prompt.")
    now = files.load().bound["scene_caption"]
    assert list(changes_since(lake, now).values()) == [["prompt changed"]]


def test_a_form_written_by_an_earlier_release_cannot_be_restored(files: Files, lake: Lake) -> None:
    first = files.load().bound["scene_caption"]
    path = layout.form_file(first.name, first.fingerprint)
    lake.write(path, json.dumps({"model": first.model, "parts": dict(first.parts)}).encode())
    forms_of_run(lake, "run", files.load().bound)
    files.save("scene_caption", prompt="Another prompt.")
    with pytest.raises(FormsChanged, match=r"scene_caption has changed since the run began \(prompt changed\)"):
        forms_of_run(lake, "run", files.load().bound)


def test_another_model_is_no_form_to_go_back_from(files: Files, lake: Lake) -> None:
    forms_of_run(lake, "run", files.load().bound)
    with pytest.raises(FormsChanged, match=r"engine\.model changed"):
        forms_of_run(lake, "run", files.load(model="bigger").bound)


def test_another_selection_is_another_run_s(files: Files, lake: Lake) -> None:
    forms_of_run(lake, "run", files.load().bound)
    with pytest.raises(FormsChanged, match=r"another selection of perspectives \(scene_objects, synthesized_caption\)"):
        forms_of_run(lake, "run", files.load(["scene_caption", "scene_count"]).bound)


def test_the_digest_follows_every_file(files: Files) -> None:
    loaded = files.load()
    assert files_digest(loaded.config) == loaded.digest
    assert {file.name for file in source_files(loaded.config)} == {
        "pipeline.yaml",
        *(f"{name}.json" for name in ENABLED),
    }
    seen = {loaded.digest}
    files.save("scene_count", description="said differently")
    seen.add(files_digest(loaded.config))
    (files.folder / "new.jsonc").write_text("// not even valid")
    seen.add(files_digest(loaded.config))
    (files.folder / "new.jsonc").rename(files.folder / "newer.jsonc")
    seen.add(files_digest(loaded.config))
    (files.folder / "notes.txt").write_text("no perspective")
    (files.folder / ".hidden.json").write_text("{}")
    seen.add(files_digest(loaded.config))
    loaded.config.file.write_text(loaded.config.file.read_text() + "\n")
    seen.add(files_digest(loaded.config))
    shutil.rmtree(files.folder)
    seen.add(files_digest(loaded.config))
    assert len(seen) == 6


def test_files_saved_while_they_are_read_are_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    config = files.load().config
    monkeypatch.setenv("CAPTION_ASSETS_CONFIG", str(config.file))
    saved = iter([True])

    def bind_and_save(config: PipelineConfig) -> dict[str, BoundPerspective]:
        bound = bind_perspectives(config)
        if next(saved, False):
            files.save("scene_caption", prompt="Saved a moment later.")
        return bound

    monkeypatch.setattr(module, "bind_perspectives", bind_and_save)
    loaded = load()
    assert loaded.bound["scene_caption"].perspective.prompt == "Saved a moment later."
    assert loaded.digest == files_digest(config)
