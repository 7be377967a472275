"""A million items are planned within a fixed amount of memory, in a process of their own, for memory is a process's."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from caption_assets.lake.store import Lake
from caption_assets.sources.base import Item
from caption_assets.sources.planner import plan_dataset
from caption_assets_tests import resident

class Listed:
    def scan(self):
        for number in range(1_000_000):
            yield Item(f"s3://bucket/some/prefix/that/is/long/{number:09d}.jpg", f"{number:032x}", number)
    def fetch(self, uri, etag):
        raise NotImplementedError

lake = Lake(sys.argv[1])
assert plan_dataset(lake, "d", Listed(), 10_000).new_items == 1_000_000
assert plan_dataset(lake, "d", Listed(), 10_000).new_items == 0
print(round(resident.most()))
"""


@pytest.mark.slow
def test_a_million_items_in_500_megabytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=500, check=True
    )
    assert int(done.stdout) <= 500
