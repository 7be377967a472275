"""Hugging Face datasets on this machine: saved to disk, with and without splits, and Parquet."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import pytest

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_index
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.huggingface import HuggingFaceSource, HuggingFaceStream
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


@pytest.mark.parametrize("column", ["n", None])
def test_a_copy_of_a_hub_s_repository_has_configurations_and_splits(
    make_config: Callable[..., PipelineConfig], tmp_path: Path, column: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads a name on the hub reads a folder of the same files, so this is how such a name is read, too."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    told = "---\nconfigs:\n"
    for name in ("big", "small"):
        told += f"- config_name: {name}\n  data_files:\n"
        for split in ("train", "val"):
            rows(f"{name} {split}".encode()).to_parquet(tmp_path / "set" / f"{name}-{split}.parquet")
            told += f"  - split: {split}\n    path: {name}-{split}.parquet\n"
    (tmp_path / "set" / "README.md").write_text(f"{told}---\n")
    entry = {
        "kind": "huggingface", "path": "./set", "config_name": "small", "split": "val", "revision": "main",
        "image": "picture", "columns": [column] if column else [],
    }  # fmt: skip
    source = open_source(make_config(datasets={"d": entry}), "d")
    (item,) = source.scan()
    assert source.fetch(item.uri, item.etag) == b"small val"
    assert item.source == ({"n": 0} if column else {"label": "ä0", "n": 0})


def test_the_name_on_the_hub_is_asked_for_with_all_that_was_said(
    make_config: Callable[..., PipelineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(*names: str, **options: Any) -> datasets.Dataset:
        asked.append((*names, options))
        return rows(b"x")

    monkeypatch.setattr(datasets, "load_dataset", load)
    entry = {
        "kind": "huggingface",
        "path": "org/set",
        "config_name": "c",
        "revision": "abc",
        "split": "val[:9]",
        "image": "picture",
    }
    (item,) = open_source(make_config(datasets={"d": entry}), "d").scan()
    assert item.uri == "org/set/val[:9]#0"
    assert asked == [("org/set", {"split": "val[:9]", "name": "c", "revision": "abc", "streaming": False})]


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_in_files_beside_the_rows(
    make_config: Callable[..., PipelineConfig],
    tmp_path: Path,
    pictures: Path,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = next(pictures.glob("*.png"))
    (tmp_path / "set").mkdir()
    if packed:
        with zipfile.ZipFile(tmp_path / "set" / "all.zip", "w") as archive:
            archive.write(file, "x.png")
    else:
        (tmp_path / "set" / "x.png").write_bytes(file.read_bytes())
        (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "hello"}')
    config = make_config(datasets={"d": {"kind": "huggingface", "path": "./set"}})
    lake, source, shard = Lake(config.lake), open_source(config, "d"), Shard("d", 0)
    plan_dataset(lake, "d", source, 10)
    assert build_media(lake, shard, source, config.media, "run").rows == 1
    (row,) = read_index(lake, shard)
    assert row["media_id"] == sha256(file.read_bytes()).hexdigest()
    assert json.loads(row["source"]) == ({} if packed else {"text": "hello"})


@pytest.mark.parametrize(
    "where", ["secret.png", "set/link.png", "http://127.0.0.1:1/x.png", "hf://datasets/other/set/x.png"]
)
def test_rows_cannot_name_files_of_others(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    path = where if "://" in where else str(tmp_path / where)
    split = HuggingFaceSource(str(tmp_path / "set"), split="train", image="image")
    assert split._bytes({"bytes": None, "path": path}) == b""


def stored(folder: Path, *files: list[bytes | None], group: int = 4) -> str:
    """Parquet files of several row groups; returns the pattern that names them."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, pictures in enumerate(files):
        rows(*pictures).to_parquet(folder / f"{number}.parquet", batch_size=group)
    return f"{folder}/*.parquet"


def stream(pattern: str, **options: Any) -> HuggingFaceStream:
    return HuggingFaceStream(pattern, split="train", image="picture", **options)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that were opened, in that order."""
    opened: list[int] = []
    shard = datasets.IterableDataset.shard

    def spied(self: datasets.IterableDataset, num_shards: int, index: int) -> datasets.IterableDataset:
        opened.append(index)
        return shard(self, num_shards, index)

    monkeypatch.setattr(datasets.IterableDataset, "shard", spied)
    return opened


PICTURES: list[bytes | None] = [b"%d" % number * 50 for number in range(30)]


def test_a_stream_is_read_in_one_pass_and_can_begin_anywhere(tmp_path: Path, lake: Lake, parts: list[int]) -> None:
    pattern = stored(tmp_path / "set", PICTURES[:17], [*PICTURES[17:29], None], PICTURES, PICTURES)
    plan = plan_dataset(lake, "d", stream(pattern), 10)
    items = [item for shard in plan.shards for item in read_plan(lake, shard)]
    assert [item.uri.rpartition("#")[2] for item in items[2:6]] == ["0.2", "0.3", "1.0", "1.1"]
    assert items[29].source == {"label": "ä12", "n": 12}
    assert plan_dataset(lake, "d", stream(pattern), 10).new_items == 0
    source = stream(pattern)
    parts.clear()
    order = [*range(29)]
    for place in range(0, 28, 2):  # two readers, a step apart
        order[place], order[place + 1] = order[place + 1], order[place]
    assert [source.fetch(items[n].uri, items[n].etag) for n in order] == [PICTURES[n] for n in order]
    assert parts == [0, 1, 2, 3, 4, 5, 6, 7]
    parts.clear()
    repair = stream(pattern)
    repaired = [items[n] for n in (3, 89, 88, 5)]
    assert [repair.fetch(each.uri, each.etag) for each in repaired] == [PICTURES[n] for n in (3, 29, 28, 5)]
    assert parts == [0, 24, 1]
    with pytest.raises(FetchError) as caught:
        repair.fetch(items[29].uri, items[29].etag)
    assert caught.value.kind == "bad_row"


def test_a_replaced_row_is_a_new_item_and_the_old_one_is_gone(tmp_path: Path, lake: Lake) -> None:
    old = stored(tmp_path / "set", PICTURES)
    plan_dataset(lake, "d", stream(old), 100)
    items = read_plan(lake, Shard("d", 0))
    changed = [*PICTURES]
    changed[13] = b"other"
    new = stored(tmp_path / "set", changed, [b"more"])
    planned = plan_dataset(lake, "d", stream(new), 100)
    assert [item.uri.rpartition("#")[2] for item in read_plan(lake, planned.new_shards[0])] == ["3.1", "8.0"]
    source = stream(new)
    assert source.fetch(items[12].uri, items[12].etag) == PICTURES[12]
    for item in (items[13], replace(items[0], uri=f"{new}/train#99.0"), replace(items[0], uri=f"{new}/train#0.9")):
        with pytest.raises(FetchError) as caught:
            source.fetch(item.uri, item.etag)
        assert caught.value.kind == "gone"
    assert source.fetch(items[14].uri, items[14].etag) == PICTURES[14]
    stored(tmp_path / "set", PICTURES[:2])
    with pytest.raises(FetchError):
        source.fetch(items[20].uri, items[20].etag)


def test_a_streamed_set_becomes_media_also_after_a_run_that_died(
    make_config: Callable[..., PipelineConfig], pictures: Path, tmp_path: Path
) -> None:
    files = sorted(path.read_bytes() for path in pictures.iterdir() if path.suffix in (".jpg", ".png"))
    stored(tmp_path / "set", [*files, b"no picture", None], group=5)
    entry = {"kind": "huggingface", "path": "./set/*.parquet", "image": "picture", "streaming": True, "columns": ["n"]}
    config = make_config(datasets={"d": entry})
    lake, shard = Lake(config.lake), Shard("d", 0)
    plan_dataset(lake, "d", open_source(config, "d"), 100)

    class Dying:
        """Ends like a process that is killed."""

        def __init__(self) -> None:
            self.source, self.left = open_source(config, "d"), 9

        def scan(self) -> Iterator[Item]:
            return self.source.scan()

        def fetch(self, uri: str, etag: str) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.source.fetch(uri, etag)

    with pytest.raises(KeyboardInterrupt):
        build_media(lake, shard, Dying(), config.media, "died")
    report = build_media(lake, shard, open_source(config, "d"), config.media, "run")
    assert (report.planned, report.rows, report.failed) == (len(files) + 2, len(files), 2)
    assert report.failure_kinds == {"not_an_image": 1, "bad_row": 1}
    index = read_index(lake, shard)
    assert [row["media_id"] for row in index] == [sha256(file).hexdigest() for file in files]
    assert [json.loads(row["source"]) for row in index] == [{"n": number} for number in range(len(files))]


SCAN = """
import sys
from pathlib import Path
from caption_assets.sources.huggingface import HuggingFaceSource, HuggingFaceStream
from caption_assets_tests import resident

source = HuggingFaceStream(sys.argv[1], split="train", image="picture")
next(source.scan())
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = resident.most()
items = [(item.uri, item.etag) for item in source.scan()]
for item in items:
    assert len(source.fetch(*item)) == 1_000_000
print(len(items), round(resident.most() - before))
"""


def test_a_stream_holds_a_part_at_a_time(tmp_path: Path) -> None:
    content = iter(range(1000))
    files = [[b"%09d" % next(content) + b"x" * 999_991 for _ in range(50)] for _ in range(4)]
    pattern = stored(tmp_path / "set", *files, group=10)
    done = subprocess.run(
        [sys.executable, "-c", SCAN, pattern], capture_output=True, text=True, timeout=100, check=True
    )
    count, megabytes = map(int, done.stdout.split())
    assert count == 200
    assert megabytes < 150  # a part has 10 MB, of what was passed 64 are kept, the set has 200 MB


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "./set", "streaming": True}, "datasets.d.streaming: streaming is for the hub and for Parquet"),
        ({"path": "./set", "streaming": "x"}, "datasets.d.streaming: must be true or false"),
        ({"path": "./nothing.parquet"}, "datasets.d.path: .*nothing.parquet does not exist"),
    ],
)
def test_mistakes_name_field_and_remedy(
    make_config: Callable[..., PipelineConfig], tmp_path: Path, entry: dict[str, object], message: str
) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ConfigError, match=message):
        make_config(datasets={"d": {"kind": "huggingface", **entry}})
