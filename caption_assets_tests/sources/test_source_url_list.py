"""Tables of URLs: every format gives the same items, and the media asset fetches them many at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.config.datasets import Web
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, HasManners, Source
from caption_assets.sources.kinds import open_source
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets.sources.url_list import UrlListSource
from caption_assets.sources.web import WebFetcher
from caption_assets_tests.sources.web_server import web_server

ROWS = [{"url": "https://x.test/a b.jpg", "caption": "ä, “b”"}, {"url": "http://x.test/2", "caption": ""}]


def write(path: Path) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps(row) for row in ROWS)
    elif name.endswith(".txt"):
        text = "# remark\n\n" + "\r\n".join(row["url"] for row in ROWS)
    else:
        delimiter = "," if name.endswith(".csv") else "\t"
        text = "\n".join([f"url{delimiter}caption", *(f'{row["url"]}{delimiter}"{row["caption"]}"' for row in ROWS)])
    data = ("\ufeff" + text).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def source(path: Path) -> UrlListSource:
    return UrlListSource(str(path), WebFetcher(Web(), Ahead()))


@pytest.mark.parametrize(
    "name", ["l.parquet", "l.csv", "l.tsv", "l.jsonl", "l.txt", "l.csv.gz", "l.tsv.gz", "l.jsonl.gz", "l.txt.gz"]
)
def test_formats(lake: Lake, tmp_path: Path, name: str) -> None:
    urls = source(write(tmp_path / name))
    plan = plan_dataset(lake, "d", urls, 10)
    items = read_plan(lake, plan.shards[0])
    assert [item.uri for item in items] == [row["url"] for row in ROWS]
    if ".txt" not in name:
        assert [item.source for item in items] == [{"caption": row["caption"]} for row in ROWS]
    assert plan_dataset(lake, "d", urls, 10).new_items == 0


def test_bad_rows_are_failures_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"url,n\nhttp://x.test/1,1\nhttp://x.test/2\n,3\nhttp://x.test/\xff,4\nhttp://x.test/5,5\n")
    urls = source(path)
    items = list(urls.scan())
    assert [item.uri.removeprefix(f"{path}") for item in items] == [
        "http://x.test/1", "#L3", "#L4", "#L5", "http://x.test/5",
    ]  # fmt: skip
    told = []
    for item in items[1:4]:
        with pytest.raises(FetchError) as caught:
            urls.fetch(item.uri, item.etag)
        told.append((caught.value.kind, str(caught.value)))
    assert told == [
        ("bad_row", "the line has 1 fields, not 2"),
        ("bad_row", "the row has no text in url"),
        ("bad_row", "the line is not UTF-8 text"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.tsv", "url\ta\tb\nu1\t\t\nu2\tx\t", {"u1": ["", ""], "u2": ["x", ""]}),
        ("l.tsv", "a\turl\n\tu1\n \tu2", {"u1": [""], "u2": [" "]}),
        ("l.csv", 'url,a\r\nu1,"x\r\n\r\n  y"\r\n\r\n  \r\nu2,z', {"u1": ["x\n\n  y"], "u2": ["z"]}),
        ("l.csv", 'url,a\nu1,"never closed\nu2,x\nu3,"y"', {"#L2": [], "u2": ["x"], "u3": ["y"]}),
        ("l.csv", 'url,a\n"never closed\nu2,x', {"#L2": [], "u2": ["x"]}),
        ("l.csv", 'url,a\nu1,"a "word" said"\nu2,5" of it', {"u1": ['a word" said"'], "u2": ['5" of it']}),
        ("l.csv", f"url,a\nu1,{'x' * 140_000}\nu2,x", {"#L2": [], "u2": ["x"]}),
    ],
)
def test_quotes_and_empty_fields(tmp_path: Path, name: str, text: str, expected: dict[str, list[str]]) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert {item.uri.removeprefix(str(path)): [*item.source.values()] for item in source(path).scan()} == expected


@pytest.mark.parametrize("name", ["L.CSV.GZ", "l.csv.gz?signature=x.txt"])
def test_packed_however_its_name_is_written(name: str) -> None:
    data = gzip.compress(b"url\nu1")
    with web_server() as server:
        server.answers[f"/{name.partition('?')[0]}"] = lambda request: web.Response(body=data)
        (item,) = UrlListSource(server.url(f"/{name}"), WebFetcher(Web(), Ahead())).scan()
    assert item.uri == "u1"


def test_parquet_keeps_what_json_can_hold_and_refuses_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    row = {"link": "http://x.test/1", "n": float("nan"), "b": b"\0", "nested": {"x": [1, None]}}
    pq.write_table(pa.Table.from_pylist([row]), path)
    (item,) = UrlListSource(str(path), WebFetcher(Web(), Ahead()), column="link").scan()
    assert item.source == {"n": None, "b": "AA==", "nested": {"x": [1, None]}}
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(OSError, match="cannot be read as Parquet"):
        list(source(path).scan())


def test_media_from_the_web(make_config: Callable[..., PipelineConfig], pictures: Path, tmp_path: Path) -> None:
    files = sorted(path for path in pictures.iterdir() if path.suffix in (".jpg", ".png"))
    with web_server() as server:
        for file in files:
            server.answers[f"/{file.name}"] = lambda request, file=file: web.Response(
                body=file.read_bytes(), content_type="text/html"
            )
        server.answers["/page.jpg"] = lambda request: web.Response(text="<html>", content_type="image/jpeg")
        server.delay = 0.02
        names = [file.name for file in files] + ["page.jpg", "absent.jpg"]
        (tmp_path / "list.txt").write_text("\n".join(server.url(f"/{name}") for name in names) + "\nnonsense")
        web_options = {"allow_hosts": ["127.0.0.1"], "backoff_seconds": 0, "per_second": 1000}
        entry = {"kind": "url_list", "path": "list.txt", "web": web_options}
        config = make_config(datasets={"d": entry})
        lake, urls, shard = Lake(config.lake), open_source(config, "d"), Shard("d", 0)
        plan_dataset(lake, "d", urls, 100)
        report = build_media(lake, shard, urls, config.media, "run")
        assert (report.rows, report.failed) == (len(files), 3)
        assert [row["uri"] for row in read_index(lake, shard)] == [server.url(f"/{file.name}") for file in files]
        assert report.failure_kinds == {"not_an_image": 1, "gone": 1, "bad_row": 1}
        assert server.most > 2  # more than there are threads
        before = len(server.asked)
        server.answers["/absent.jpg"] = server.answers[f"/{files[0].name}"]
        again = build_media(lake, shard, open_source(config, "d"), config.media, "again")
        assert (again.rows, again.new, again.failed) == (len(files) + 1, 1, 2)
        assert sorted(server.asked[before:]) == ["/absent.jpg", "/robots.txt"]
        assert len(read_failures(lake, "media", shard)) == 2


def test_a_version_column_alone_says_what_is_new(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    urls = UrlListSource(str(path), WebFetcher(Web(), Ahead()), version_column="seen")
    for text, new in [
        ("url,seen,n\nhttp://x.test/1,mon!,1\nhttp://x.test/2,,1", 2),
        ("url,n,seen\nhttp://x.test/1,9,mon!\nhttp://x.test/2,9,", 0),
        ("url,seen\nhttp://x.test/1,tue\nhttp://x.test/2,", 1),
        ("url\nhttp://x.test/1", 1),
    ]:
        path.write_text(text)
        planned = plan_dataset(lake, "d", urls, 10)
        assert planned.new_items == new
    (bad,) = read_plan(lake, planned.new_shards[0])
    with pytest.raises(FetchError, match="the row has no column seen"):
        urls.start(bad.uri, bad.etag)


def test_an_opt_out_is_settled_until_manners_change_or_it_is_forced(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    with web_server() as server:
        (tmp_path / "list.txt").write_text(server.url("/a.jpg"))
        server.answers["/a.jpg"] = lambda request: web.Response(text="x", headers={"X-Robots-Tag": "noai"})

        def open_list(**manners: object) -> tuple[PipelineConfig, Source]:
            options = {"allow_hosts": ["127.0.0.1"], **manners}
            config = make_config(datasets={"d": {"kind": "url_list", "path": "list.txt", "web": options}})
            return config, open_source(config, "d")

        config, urls = open_list()
        lake, shard = Lake(config.lake), Shard("d", 0)
        plan_dataset(lake, "d", urls, 10)
        assert build_media(lake, shard, urls, config.media, "first").failure_kinds == {"opted_out": 1}
        server.asked.clear()
        assert build_media(lake, shard, urls, config.media, "again").failure_kinds == {"opted_out": 1}
        assert server.asked == []
        config, ruder = open_list(opt_out=[])
        assert isinstance(ruder, HasManners)
        assert isinstance(urls, HasManners)
        assert ruder.manners != urls.manners
        assert open_list(opt_out=["noai"], per_host=1)[1].manners == open_list(opt_out=["NoAI"])[1].manners  # type: ignore[attr-defined]
        assert build_media(lake, shard, urls, config.media, "forced", force=True).failure_kinds == {"opted_out": 1}
        assert "/a.jpg" in server.asked
        report = build_media(lake, shard, ruder, config.media, "ruder")
        assert report.failure_kinds == {"not_an_image": 1}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "l.xlsx"}, "datasets.d.path: .*l.xlsx cannot be opened: its name must end in one of .parquet, .csv"),
        ({"path": "l.xlsx", "web": {"robot": False}}, "datasets.d.web.robot: unknown key; did you mean 'robots'"),
        ({"path": "l.xlsx", "version_column": ""}, "datasets.d.version_column: must not be empty"),
        ({"path": "l.xlsx", "web": {"ahead_mb": 0}}, "datasets.d.web.ahead_mb: must be greater than 0"),
        ({"path": "l.xlsx", "web": {"attempts": 0}}, "datasets.d.web.attempts: must be greater than or equal to 1"),
    ],
)
def test_mistakes_name_field_and_remedy(
    make_config: Callable[..., PipelineConfig], tmp_path: Path, entry: dict[str, object], message: str
) -> None:
    (tmp_path / "l.xlsx").touch()
    with pytest.raises(ConfigError, match=message):
        open_source(make_config(datasets={"d": {"kind": "url_list", **entry}}), "d")
