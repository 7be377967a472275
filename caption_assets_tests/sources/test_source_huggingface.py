"""Hugging Face datasets on this machine: saved to disk, with and without splits, and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from caption_assets.config import PipelineConfig
from caption_assets.lake.store import Lake
from caption_assets.sources.base import FetchError
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, read_plan


def rows(*pictures: bytes | None) -> datasets.Dataset:
    content = {
        "picture": [None if data is None else {"bytes": data, "path": None} for data in pictures],
        "label": [f"ä{number}" for number in range(len(pictures))],
        "n": list(range(len(pictures))),
    }
    return (
        datasets.Dataset.from_dict(content)
        .cast_column("picture", datasets.Image(decode=False))
        .cast_column("picture", datasets.Image())
    )


@pytest.mark.parametrize("form", ["folder", "splits", "parquet"])
def test_rows_are_items_with_their_columns(
    make_config: Callable[..., PipelineConfig], lake: Lake, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    stored = rows(b"first", b"second", None)
    path = "./set.parquet" if form == "parquet" else "./set"
    if form == "parquet":
        stored.to_parquet(tmp_path / "set.parquet")
    else:
        (datasets.DatasetDict(val=stored) if form == "splits" else stored).save_to_disk(tmp_path / "set")
    entry = {"kind": "huggingface", "path": path, "split": "val", "image": "picture"}
    config = make_config(datasets={"d": entry, "e": {**entry, "columns": ["n"]}, "f": {**entry, "image": "x"}})
    source = open_source(config, "d")
    plan = plan_dataset(lake, "d", source, 10)
    items = read_plan(lake, plan.shards[0])
    assert [item.source for item in items] == [{"label": f"ä{number}", "n": number} for number in range(3)]
    assert [source.fetch(item.uri, item.etag) for item in items[:2]] == [b"first", b"second"]
    for uri, etag, kind in [
        (items[2].uri, items[2].etag, "bad_row"),
        (items[0].uri, items[1].etag, "gone"),
        (items[0].uri + "9", items[0].etag, "gone"),
    ]:
        with pytest.raises(FetchError) as caught:
            source.fetch(uri, etag)
        assert caught.value.kind == kind
    assert plan_dataset(lake, "d", open_source(config, "d"), 10).new_items == 0
    assert [item.source for item in open_source(config, "e").scan()] == [{"n": 0}, {"n": 1}, {"n": 2}]
    with pytest.raises(ValueError, match="has no column 'x', only picture, label, n"):
        list(open_source(config, "f").scan())
