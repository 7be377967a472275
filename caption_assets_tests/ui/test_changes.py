"""A perspective file is edited while `dagster dev` runs: the UI shows the change, and its captions are made again."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.catalog import open_views
from caption_assets.demo.scenes import write_scenes
from caption_assets.perspectives.library import BUNDLED
from caption_assets.sensors import code_reload
from caption_assets_tests.ui.dev_server import DATASET, LOCATION, DevServer, dev_server, wait_for

PICTURES = 4
SHOWN_WITHIN = 60.0
NEW = "What it shows, said anew."
_NODE = "{ assetNodes { assetKey { path } description opVersion } }"
_TAGS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { tags { key value } assetSelection { path } } } }"

pytestmark = pytest.mark.slow


def shown(server: DevServer) -> tuple[str, str]:
    """Description and code version of `scene_caption`, as the UI has them."""
    nodes = server.query(_NODE)["assetNodes"]
    (node,) = [node for node in nodes if node["assetKey"]["path"] == ["captions", "scene_caption"]]
    return node["description"], node["opVersion"]


def launched(server: DevServer, sensor: str) -> str | None:
    """The run of the latest tick of a sensor that launched one."""
    return next((tick["runIds"][0] for tick in server.ticks(sensor) if tick["runIds"]), None)


def ended(server: DevServer, run: str) -> str | None:
    """Status of a run that has ended."""
    status = server.run_status(run)
    return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None


def tags_of(server: DevServer, run: str) -> dict[str, Any]:
    """Tags of a run, and what it was to make."""
    found = server.query(_TAGS, {"run": run})["runOrError"]
    made = {"made": {key["path"][-1] for key in found["assetSelection"] or ()}}
    return {tag["key"]: tag["value"] for tag in found["tags"]} | made


def test_a_saved_perspective_is_shown_and_captioned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLED["demo"], tmp_path / "perspectives")
    chosen = {"library": ["./perspectives"], "enabled": ["scene_caption", "scene_count"]}
    with dev_server(tmp_path, perspectives=chosen, recaption={"policy": "all"}) as server:
        write_scenes(server.pictures, PICTURES, seed=7)
        for file in server.pictures.iterdir():
            os.utime(file, (time.time() - 60,) * 2)
        arrival = wait_for("the arrivals' run", lambda: launched(server, f"arrivals_{DATASET}"))
        assert wait_for("captions", lambda: ended(server, arrival)) == "SUCCESS"
        first = bind_perspectives(server.config)["scene_caption"].fingerprint
        assert f"scene_caption={first}" in tags_of(server, arrival)["caption_assets/fingerprints"]
        assert shown(server)[1] == first

        file = tmp_path / "perspectives" / "scene_caption.json"
        document = json.loads(file.read_text())
        file.write_text("{")
        wait_for("a refusal", lambda: "scene_caption.json" in str(server.ticks("code_reload")[0]["skipReason"]))
        assert shown(server)[1] == first, "an invalid file is not loaded"

        file.write_text(json.dumps(document | {"description": NEW, "prompt": document["prompt"] + " Be brief."}))
        second = bind_perspectives(server.config)["scene_caption"].fingerprint
        wait_for("the change in the UI", lambda: shown(server) == (NEW, second), SHOWN_WITHIN)
        again = wait_for("a run that captions again", lambda: launched(server, "recaptioning"))
        tags = tags_of(server, again)
        assert tags["made"] == {"scene_caption"}
        assert (tags["caption_assets/cause"], tags["caption_assets/pictures"]) == ("recaptioning", str(PICTURES))
        assert wait_for("captions of the new form", lambda: ended(server, again)) == "SUCCESS"
        with open_views(server.config) as views:
            assert views.execute("SELECT count(*) FROM stale").fetchall() == [(0,)]
            rows = views.execute("SELECT fingerprint, run_id, count(*) FROM captions_scene_caption GROUP BY ALL")
            assert rows.fetchall() == [(second, again, PICTURES)]
        monkeypatch.setenv(code_reload.WEBSERVER_VARIABLE, server.url)
        code_reload._ask_webserver(LOCATION)
        with pytest.raises(code_reload.ReloadRefused, match="elsewhere"):
            code_reload._ask_webserver("elsewhere")
