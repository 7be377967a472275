"""A stand-in for Hugging Face's hub with one dataset, and ticks of a dataset that is watched there.

Where the hub is must be known before its client is imported: so the ticks are a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from caption_assets_tests.sources.web_server import served

NAME = "somebody/pictures"


class Hub:
    """A dataset of one Parquet file, in the revision that a test says."""

    def __init__(self) -> None:
        self.revision, self.content = "0" * 40, b""
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.asked.append(f"{request.method} {request.path_qs}")
        path = request.path
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            file = {"type": "file", "oid": self.revision, "size": len(self.content), "path": "train.parquet"}
            return web.json_response([file])
        if path.startswith(f"/api/datasets/{NAME}"):
            files = [{"rfilename": "train.parquet"}]
            return web.json_response({"_id": "1", "id": NAME, "sha": self.revision, "siblings": files})
        if path.startswith(f"/datasets/{NAME}/resolve/") and path.endswith("/train.parquet"):
            headers = {"X-Repo-Commit": self.revision, "ETag": f'"{self.revision}"', "Accept-Ranges": "bytes"}
            return web.Response(body=self.content, headers=headers)
        return web.json_response({"error": "Entry not found"}, status=404, headers={"X-Error-Code": "EntryNotFound"})


@contextmanager
def hub() -> Iterator[tuple[Hub, str]]:
    """A hub, and its URL."""
    made = Hub()
    with served(made.handle) as port:
        yield made, f"http://127.0.0.1:{port}"


@contextmanager
def ticking(home: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that makes a tick for each line that it reads, and writes down what came of it."""
    hub_there = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **hub_there, "HF_HOME": str(home / "hf")}
    command = [sys.executable, "-m", "caption_assets_tests.arrivals.hub", str(home)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tick(process: subprocess.Popen[str]) -> dict[str, Any]:
    """One tick: `new`, `notes` and `problem`."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    """Ticks."""
    from caption_assets_tests.arrivals.world import Watch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the client's progress bars are no answers
    watch = Watch(Path(sys.argv[1]), kind="huggingface", path=NAME, split="train", image="picture")
    for _ in sys.stdin:
        outcome = watch.tick()
        told = {"new": outcome.new_items, "notes": outcome.notes, "problem": repr(outcome.problem)}
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
