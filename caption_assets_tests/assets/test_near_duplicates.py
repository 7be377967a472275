"""`near_duplicates` over real pictures, by its job: copies are found however they were made, other pictures are not."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from PIL import Image

import caption_assets.demo
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import table_bytes
from caption_assets_tests.assets.running import Outcome, Pipeline, write_config
from caption_assets_tests.support import ingest

PHOTOGRAPHS = Path(caption_assets.demo.__file__).parent / "photographs"
CATS = {frozenset(pair) for pair in itertools.combinations(["cat.jpg", "cat-small.jpg", "cat-cut.jpg"], 2)}
COFFEES = {frozenset(("coffee.jpg", "coffee.png"))}
ROCKETS = {frozenset(("rocket.jpg", "rocket-cut.jpg"))}


def zoomed(file: Path, share: float, name: str) -> None:
    """Save a picture without a margin of this share of its sides."""
    with Image.open(file) as image:
        x, y = round(image.width * share), round(image.height * share)
        image.crop((x, y, image.width - x, image.height - y)).save(file.parent / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photographs and copies: the same bytes, encoded anew, smaller, as PNG, with a margin cut, with more cut."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("astronaut", "cat", "coffee", "rocket"):
        shutil.copy(PHOTOGRAPHS / f"{name}.jpg", folder)
    shutil.copy(folder / "rocket.jpg", folder / "rocket_again.jpg")
    zoomed(folder / "rocket.jpg", 0.03, "rocket_zoomed.jpg")
    zoomed(folder / "cat.jpg", 0.01, "cat-cut.jpg")
    with Image.open(folder / "cat.jpg") as image:
        image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(folder / "cat-small.jpg", quality=30)
    with Image.open(folder / "coffee.jpg") as image:
        image.resize((image.width // 2, image.height // 2)).save(folder / "coffee.png")
    return folder


def pipeline_over(folder: Path, **sections: object) -> Pipeline:
    """Three pictures a shard: astronaut and cats, coffees and the rest."""
    return Pipeline.of(write_config(folder.parent, {"demo": {"path": str(folder), "shard_size": 3}}, **sections))


@pytest.fixture
def pipeline(folder: Path) -> Pipeline:
    """With media."""
    pipeline = pipeline_over(folder)
    ingest(pipeline.config, pipeline.lake)
    return pipeline


def find(pipeline: Pipeline) -> Outcome:
    """Run `near_duplicates_job`."""
    return pipeline.run("near_duplicates_job", None)


def told(outcome: Outcome) -> dict[str, Any]:
    """What the one materialization says."""
    assert outcome.success, outcome.failures
    return outcome.of("near_duplicates", None).metadata


def pairs(pipeline: Pipeline) -> dict[frozenset[str], int]:
    """Distances by the names of two files, from the catalog as it lies in the lake."""
    with duckdb.connect(pipeline.lake.path(layout.CATALOG), read_only=True) as catalog:
        rows = catalog.execute("SELECT uri_a, uri_b, distance FROM near_duplicates").fetchall()
    found = {frozenset((Path(a).name, Path(b).name)): distance for a, b, distance in rows}
    assert len(found) == len(rows)
    return found


def test_copies_are_found_and_other_pictures_are_not(pipeline: Pipeline) -> None:
    metadata = told(find(pipeline))
    found = pairs(pipeline)
    assert found.keys() == CATS | COFFEES, "the same bytes are one picture, and no pair"
    assert found[frozenset(("cat.jpg", "cat-small.jpg"))] == 0
    assert 0 < found[frozenset(("cat.jpg", "cat-cut.jpg"))] <= 6
    assert (metadata["hashes"], metadata["distinct hashes"], metadata["hashes of several pictures"]) == (9, 6, 2)
    assert (metadata["pairs"], metadata["pairs left out"], metadata["pictures without a hash"]) == (1, 0, 0)
    assert metadata["unchanged"] is False
    assert metadata["pairs per second"] > 0
    assert metadata["location"] == pipeline.lake.url(layout.NEAR_DUPLICATES)
    lines = metadata["closest"].split("\n")[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| 0", "| 0", "| 2"]
    assert all(line.count("![picture](data:image/jpeg;base64,") == 2 for line in lines)
    assert [line.count(r"coffee.") + line.count(r"cat") for line in lines] == [2, 2, 2]


def test_a_second_time_nothing_is_searched(pipeline: Pipeline) -> None:
    first = find(pipeline)
    second = find(pipeline)
    before, after = told(first), told(second)
    assert after["unchanged"] is True
    for name in ("hashes", "distinct hashes", "pairs", "pairs by distance", "closest"):
        assert after[name] == before[name]
    version = "dagster/data_version"
    assert second.of("near_duplicates", None).tags[version] == first.of("near_duplicates", None).tags[version]


def test_what_comes_and_goes_is_followed(pipeline: Pipeline, folder: Path) -> None:
    find(pipeline)
    zoomed(folder / "rocket.jpg", 0.01, "rocket-cut.jpg")
    ingest(pipeline.config, pipeline.lake)
    assert told(find(pipeline))["unchanged"] is False
    assert pairs(pipeline).keys() == CATS | COFFEES | ROCKETS
    pipeline.lake.remove(layout.media_index(Shard("demo", 1)))
    assert told(find(pipeline))["unchanged"] is False
    assert pairs(pipeline).keys() == ROCKETS | {frozenset(("cat-cut.jpg", "cat-small.jpg"))}


def test_pictures_normalised_anew_are_followed(pipeline: Pipeline, folder: Path) -> None:
    find(pipeline)
    small = pipeline_over(folder, media={"max_pixels": 4096})
    ingest(small.config, small.lake)
    metadata = told(find(small))
    assert (metadata["hashes"], metadata["unchanged"]) == (9, False)
    assert pairs(small).keys() == CATS | COFFEES


def test_the_pipeline_file_says_how_near(pipeline: Pipeline, folder: Path) -> None:
    find(pipeline)
    wide = pipeline_over(folder, near_duplicates={"distance": 12, "max_pairs": 1})
    metadata = told(find(wide))
    assert metadata["pairs"] == sum(int(each.split(": ")[1]) for each in metadata["pairs by distance"].split(", ")) == 2
    assert metadata["pairs left out"] == 1
    equal = pipeline_over(folder, near_duplicates={"distance": 0})
    assert told(find(equal))["pairs"] == 0
    assert set(pairs(equal).values()) == {0}


def test_a_damaged_file_is_made_anew(pipeline: Pipeline) -> None:
    find(pipeline)
    pipeline.lake.write(layout.NEAR_DUPLICATES, b"PAR1 and no more")
    assert told(find(pipeline))["unchanged"] is False
    assert pairs(pipeline).keys() == CATS | COFFEES


def test_a_broken_index_is_named(pipeline: Pipeline) -> None:
    index = layout.media_index(Shard("demo", 1))
    table = pipeline.lake.read_table(index)
    column = table.schema.get_field_index("phash")
    broken = table.set_column(column, "phash", pa.array(["nonsense"] * len(table)))
    pipeline.lake.write(index, table_bytes(broken))
    outcome = find(pipeline)
    assert not outcome.success
    assert f"{index}: phash: 'nonsense' is not 16 hex digits" in outcome.failures
