"""A mounted ConfigMap changes while code server, webserver and daemon are processes of their own, as on Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caption_assets.perspectives.library import BUNDLED
from caption_assets_tests.ui.dev_server import DevServer, separate_servers, wait_for, write_pipeline

SHOWN_WITHIN = 60.0
NAME = "street_scene"
_NODES = "{ assetNodes { assetKey { path } description } }"

pytestmark = pytest.mark.slow


class ConfigMap:
    """A folder as the kubelet mounts and changes it: names lead through `..data` to a folder that is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._version = folder, 0
        folder.mkdir()

    def put(self, files: dict[str, str]) -> None:
        """Replace all files at once."""
        self._version += 1
        contents = self.folder / f"..{self._version}"
        contents.mkdir()
        for name, text in files.items():
            (contents / name).write_text(text, encoding="utf-8")
        (self.folder / "..data_tmp").symlink_to(contents.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for old in self.folder.glob("[!.]*"):
            if old.name not in files:
                old.unlink()
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


def files(folder: Path, description: str | None) -> dict[str, str]:
    """A pipeline file, and beside it a perspective of its own; None: without it."""
    enabled = ["scene_count", *([NAME] if description else [])]
    pipeline = folder / "written.yaml"
    datasets = {"street": {"kind": "folder", "path": str(folder / "pictures"), "watch": True}}
    perspectives = {"library": ["demo", "."], "enabled": enabled}
    write_pipeline(pipeline, lake=str(folder / "lake"), datasets=datasets, perspectives=perspectives)
    made = {"pipeline.yaml": pipeline.read_text(encoding="utf-8")}
    if description:
        document = json.loads((BUNDLED["demo"] / "scene_count.json").read_text(encoding="utf-8"))
        made[f"{NAME}.json"] = json.dumps(document | {"name": NAME, "description": description})
    return made


def shown(server: DevServer) -> dict[str, str]:
    """Descriptions of the perspectives that the UI shows."""
    nodes = server.query(_NODES)["assetNodes"]
    keys = {tuple(node["assetKey"]["path"]): node["description"] for node in nodes}
    return {key[1]: text for key, text in keys.items() if key[0] == "captions"}


def test_perspectives_come_change_and_go_with_the_config_map(tmp_path: Path) -> None:
    mounted = ConfigMap(tmp_path / "mounted")
    mounted.put(files(tmp_path, None))
    with separate_servers(tmp_path, tmp_path / "mounted" / "pipeline.yaml") as server:
        assert shown(server).keys() == {"scene_count"}
        mounted.put(files(tmp_path, "First words."))
        wait_for("a new perspective", lambda: shown(server).get(NAME) == "First words.", SHOWN_WITHIN)
        mounted.put(files(tmp_path, "Other words."))
        wait_for("a changed perspective", lambda: shown(server).get(NAME) == "Other words.", SHOWN_WITHIN)
        mounted.put(files(tmp_path, None))
        wait_for("a perspective that is gone", lambda: NAME not in shown(server), SHOWN_WITHIN)
