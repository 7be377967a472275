"""A dataset of the hub is read again when its revision changed, and not before."""

from __future__ import annotations

from pathlib import Path

import datasets

from caption_assets_tests.arrivals.hub import hub, tick, ticking


def test_a_new_revision_is_noticed(tmp_path: Path) -> None:
    def revision(number: int, *pictures: bytes) -> None:
        column = [{"bytes": data, "path": None} for data in pictures]
        file = tmp_path / "made.parquet"
        datasets.Dataset.from_dict({"picture": column}).cast_column("picture", datasets.Image()).to_parquet(file)
        remote.content, remote.revision = file.read_bytes(), f"{number}" * 40

    with hub() as (remote, url):
        revision(1, b"a", b"b")
        with ticking(tmp_path, url) as process:
            assert tick(process) == {"new": 2, "notes": [], "problem": "None"}
            asked = len(remote.asked)
            assert tick(process) == {"new": 0, "notes": ["unchanged"], "problem": "None"}
            assert len(remote.asked) == asked + 1
            revision(2, b"a", b"b", b"c")
            assert tick(process) == {"new": 1, "notes": [], "problem": "None"}
            assert tick(process)["notes"] == ["unchanged"]
