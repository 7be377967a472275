"""JSON Lines: every line becomes an item, those that cannot be understood become failures with their number."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from aiohttp import web

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.config.datasets import Web
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index
from caption_assets.sources import rows
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, Item, Source
from caption_assets.sources.jsonl import JsonlSource
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets.sources.web import WebFetcher
from caption_assets_tests.sources.test_source_folder import touch
from caption_assets_tests.sources.web_server import web_server


def listed(folder: Path, *lines: dict[str, Any] | bytes, name: str = "list.jsonl") -> Path:
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return touch(folder / name, gzip.compress(data) if name.endswith(".gz") else data)


def error_of(source: Source, item: Item) -> tuple[str, str]:
    with pytest.raises(FetchError) as caught:
        source.fetch(item.uri, item.etag)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("name", ["list.jsonl", "list.jsonl.gz", "sub/list.ndjson"])
def test_lines_are_items_with_their_columns(lake: Lake, folder: Path, name: str) -> None:
    touch((folder / name).parent / "in/a b.jpg", b"content")
    file = listed(folder, b'\xef\xbb\xbf{"path": "in/a b.jpg", "caption": "\xc3\xa4"}', b"", b"  ", name=name)
    source = JsonlSource(str(file))
    plan = plan_dataset(lake, "d", source, 10)
    (item,) = read_plan(lake, plan.shards[0])
    assert (item.uri, item.size, item.source) == (f"{file.parent}/in/a b.jpg", 7, {"caption": "ä"})
    assert source.fetch(item.uri, item.etag) == b"content"
    assert plan_dataset(lake, "d", source, 10).new_items == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "the line is not JSON"),
        (b"\xff{}", "the line is not UTF-8"),
        (b"[1]", "the line is no JSON object"),
        (b'{"x": NaN, "path": "a.jpg"}', "NaN is not JSON"),
        ({"caption": "x"}, "the line has none of path, url, file_name, filename, urls"),
        ({"urls": []}, "the line has none of"),
        ({"urls": [7]}, "urls is no text"),
        (b'{"path": "a.jpg", "n": 1e999}', "not JSON"),
        ({"path": ""}, "the line has none of"),
        ({"path": 7}, "path is no text"),
        ({"path": "../a.jpg"}, "path leads out of the root"),
        ({"path": "in/../../a.jpg"}, "path leads out of the root"),
        ({"path": "/etc/hostname"}, "path leads out of the root"),
        ({"path": "a\0.jpg"}, "path leads out of the root"),
        ({"url": "file:///etc/hostname"}, "url is a URL outside of the root"),
        (b'"' + b"x" * 3000 + b'"', "longer than"),
    ],
)
def test_a_bad_line_is_a_failure_with_its_number(
    folder: Path, lake: Lake, line: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LINE_LIMIT", 1000)
    touch(folder / "a.jpg", b"content")
    file = listed(folder, {"path": "a.jpg"}, line, {"path": "a.jpg", "n": 2})
    source = JsonlSource(str(file))
    plan = plan_dataset(lake, "d", source, 10)
    first, bad, last = read_plan(lake, plan.shards[0])
    assert bad.uri == f"{file}#L2"
    kind, told = error_of(source, bad)
    assert kind == "bad_row"
    assert message in told
    assert source.fetch(first.uri, first.etag) == source.fetch(last.uri, last.etag) == b"content"


def test_the_open_model_initiative_s_forms(lake: Lake, folder: Path) -> None:
    """A line an annotation in what is uploaded; a line a picture, with its places, in what is published."""
    touch(folder / "big-buddha_1280.jpg", b"buddha")
    parsed = {"tags_list": [{"tag": "Buddha statue", "category": "Entity", "confidence": 0.99}], "short_caption": "x"}
    upload = {"filename": "./big-buddha_1280.jpg", "config_name": "graphcap", "version": "1", "parsed": parsed}
    published = {"id": 1, "urls": ["https://x.test/o.jpg", "https://y.test/o.jpg"], "license": "CC", "hash": "tbd"}
    source = JsonlSource(
        str(listed(folder, upload, {**upload, "version": "2"}, published, {**published, "urls": []})),
        web=WebFetcher(Web(), Ahead()),
    )
    plan = plan_dataset(lake, "d", source, 10)
    first, second, far, bad = read_plan(lake, plan.shards[0])
    assert first.uri == second.uri == f"{folder}/big-buddha_1280.jpg"
    assert first.source == {"config_name": "graphcap", "version": "1", "parsed": parsed}
    assert source.fetch(second.uri, second.etag) == b"buddha"
    assert (far.uri, far.source) == ("https://x.test/o.jpg", {"id": 1, "license": "CC", "hash": "tbd"})
    assert error_of(source, bad)[0] == "bad_row"


def test_a_changed_line_or_file_is_a_new_item(folder: Path) -> None:
    touch(folder / "a.jpg", b"content")
    source = JsonlSource(str(listed(folder, {"path": "a.jpg", "n": 1}, {"path": "b.jpg"})))
    old, absent = source.scan()
    assert error_of(source, absent)[0] == "gone"
    listed(folder, {"path": "a.jpg", "n": 2}, {"path": "b.jpg"})
    touch(folder / "b.jpg")
    changed, there = source.scan()
    assert changed.key != old.key
    assert source.fetch(there.uri, there.etag) == b"x"
    assert error_of(source, absent)[0] == "gone"
    touch(folder / "a.jpg", b"other")
    assert error_of(source, old)[0] == error_of(source, changed)[0] == "gone"


def test_a_link_does_not_lead_out_either(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path / "secret.jpg")
    (folder / "up").symlink_to(tmp_path)
    source = JsonlSource(str(listed(folder, {"path": "up/secret.jpg"})))
    (item,) = source.scan()
    assert error_of(source, item)[0] == "forbidden"


def test_a_damaged_file_says_where_it_ends(folder: Path, lake: Lake) -> None:
    file = listed(folder, *({"path": f"{os.urandom(20).hex()}.jpg"} for _ in range(2000)), name="list.jsonl.gz")
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(OSError, match="the compressed file is damaged after line"):
        plan_dataset(lake, "d", JsonlSource(str(file)), 10)
    with pytest.raises(FileNotFoundError):
        list(JsonlSource(str(folder / "absent.jsonl")).scan())


def test_a_list_in_a_store(lake: Lake, folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/jsonl/p/a.jpg": b"content", "/jsonl/list.jsonl": b'{"path": "p/a.jpg"}\n{"path": "p/b.jpg"}'})
    source = JsonlSource("memory://jsonl/list.jsonl")
    there, absent = source.scan()
    assert source.fetch(there.uri, there.etag) == b"content"
    started = source.start(there.uri, there.etag)
    assert started is not None
    assert started.result(30) == b"content"
    assert error_of(source, absent)[0] == "gone"


def test_failures_are_rows_and_the_rest_is_media(
    make_config: Callable[..., PipelineConfig], pictures: Path, tmp_path: Path
) -> None:
    picture = next(pictures.glob("*.jpg"), None) or next(pictures.glob("*.png"))
    listed(tmp_path, {"image": picture.name}, b"oops", {"image": "absent.jpg"})
    entry = {"kind": "jsonl", "path": "list.jsonl", "root": str(pictures), "columns": ["image"]}
    config = make_config(datasets={"d": entry})
    lake, source = Lake(config.lake), open_source(config, "d")
    plan_dataset(lake, "d", source, 10)
    report = build_media(lake, Shard("d", 0), source, config.media, "run")
    assert (report.planned, report.rows, report.failed) == (3, 1, 2)
    assert [row["uri"] for row in read_index(lake, Shard("d", 0))] == [str(picture)]
    failures = read_failures(lake, "media", Shard("d", 0))
    assert [(row["kind"], row["retryable"]) for row in failures] == [("bad_row", False), ("gone", True)]
    assert failures[0]["uri"] == f"{tmp_path}/list.jsonl#L2"
    assert config.dataset_place("d") == f"{tmp_path}/list.jsonl"


def test_an_absent_file_is_a_mistake_of_the_pipeline_file(make_config: Callable[..., PipelineConfig]) -> None:
    with pytest.raises(ConfigError, match=r"datasets.d.path: .*/list.jsonl does not exist; create it, or correct"):
        make_config(datasets={"d": {"kind": "jsonl", "path": "list.jsonl"}})


def test_lines_may_name_urls_of_the_web(folder: Path) -> None:
    touch(folder / "a.jpg", b"local")
    with web_server() as server:
        server.answers["/a.jpg"] = lambda request: web.Response(body=b"web")
        file = listed(
            folder,
            {"url": server.url("/a.jpg"), "n": 1},
            {"path": "a.jpg"},
            b"bad",
            {"url": server.url("/a.jpg").upper()},
        )
        client = WebFetcher(Web(allow_hosts=["127.0.0.1"]), Ahead())
        source = JsonlSource(str(file), web=client)
        far, near, bad, loud = source.scan()
        assert loud.uri.startswith("HTTP://127.0.0.1")
        assert (far.uri, far.source) == (server.url("/a.jpg"), {"n": 1})
        assert [source.fetch(item.uri, item.etag) for item in (far, near)] == [b"web", b"local"]
        started = source.start(far.uri, far.etag)
        assert started is not None
        assert started.result(30) == b"web"
        assert source.start(near.uri, near.etag) is None
        with pytest.raises(FetchError):
            source.start(bad.uri, bad.etag)
        guarded = JsonlSource(str(file), web=WebFetcher(Web(), Ahead()))
        assert error_of(guarded, far)[0] == "blocked_address"
