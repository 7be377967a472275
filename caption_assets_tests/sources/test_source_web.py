"""Fetching from the web: what is refused, what is tried again, and how a host is treated."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult

from caption_assets.config.datasets import Web
from caption_assets.sources.addresses import is_public
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, Fetching
from caption_assets.sources.politeness import opted_out, retry_after
from caption_assets.sources.spool import IN_MEMORY
from caption_assets.sources.web import WebFetcher
from caption_assets_tests.sources.web_server import Names, WebServer, web_server


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        running.answers["/a.jpg"] = lambda request: web.Response(body=b"content")
        yield running


def fetcher(*, limit: int = 1000, names: Names | None = None, **options: Any) -> WebFetcher:
    options = {"allow_hosts": ["127.0.0.1"], "backoff_seconds": 0, "per_second": 1e6, **options}
    return WebFetcher(Web(**options), Ahead(limit=limit), resolver=names)


def get(client: WebFetcher, url: str) -> bytes:
    return client.start(url).result(timeout=60)


def failure(client: WebFetcher, url: str) -> tuple[str, str]:
    with pytest.raises(FetchError) as caught:
        get(client, url)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
        "224.0.0.1", "239.1.1.1", "255.255.255.255", "168.63.129.16", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::",
        "::7f00:1", "2001::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "fec0::1", "5f00::1", "3fff::1",
        "2002:a9fe:a9fe::", "64:ff9b::a9fe:a9fe", "192.0.0.192", "192.88.99.1", "100.64.0.1", "198.18.0.1", "240.0.0.1",
        "x", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "①②⑦.0.0.1", "127。0。0。1", "user:word@127.0.0.1",
     "2130706433", "017700000001", "0x7f.1", "0177.0.0.1", "127.1", "[::1]",
     "[::ffff:127.0.0.1]", "[fe80::1]", "169.254.169.254", "10.0.0.1"],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_connected_to(server: WebServer, host: str) -> None:
    kind, message = failure(fetcher(allow_hosts=[]), server.url("/a.jpg", host))
    assert kind == "blocked_address", message
    assert server.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1.", "localhost.", "127.0.0.1%2f.test", "4294967297"])
def test_what_is_hardly_a_host_is_not_connected_to(server: WebServer, host: str) -> None:
    kind, message = failure(fetcher(allow_hosts=[], attempts=1), server.url("/a.jpg", host))
    assert kind in {"blocked_address", "bad_row", "unreachable"}, message
    assert server.asked == []


def test_one_private_address_among_public_ones_is_enough(server: WebServer) -> None:
    class Both(Names):
        async def resolve(self, host: str, port: int = 0, family: Any = None) -> list[ResolveResult]:
            return [
                {**(await Names.resolve(self, "x"))[0], "host": each, "port": port} for each in ("1.1.1.1", "127.0.0.1")
            ]

    assert failure(fetcher(allow_hosts=[], names=Both(x="")), server.url("/a.jpg", "both.test"))[0] == "blocked_address"
    assert server.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_to_a_private_address_is_refused(server: WebServer, address: str) -> None:
    client = fetcher(allow_hosts=[], names=Names(pictures_test=address))
    assert failure(client, server.url("/a.jpg", "pictures.test"))[0] == "blocked_address"
    assert server.asked == []


def test_the_pipeline_file_may_allow_a_host_by_its_name(server: WebServer) -> None:
    names = Names(inside_test="127.0.0.1", other_test="127.0.0.1")
    client = fetcher(allow_hosts=["inside.test"], names=names)
    assert get(client, server.url("/a.jpg", "inside.test")) == b"content"
    assert failure(client, server.url("/a.jpg", "other.test"))[0] == "blocked_address"
    assert failure(client, server.url("/a.jpg"))[0] == "blocked_address"


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data", "http://[::1]/", "//10.0.0.1/x", "http://2852039166/", "file:///etc/passwd",
     "ftp://127.0.0.1/x", "http://private.test/", "gopher://x", "data:image/png;base64,AA", "http://public.test@10.0.0.1/",
     "http://[::ffff:0:7f00:1]/"],
)  # fmt: skip
def test_a_redirect_leads_nowhere_private(server: WebServer, target: str) -> None:
    names = Names(public_test="127.0.0.1", private_test="10.0.0.1")
    names.addresses["2852039166"] = "169.254.169.254"
    server.answers["/r"] = lambda request: web.Response(status=302, headers={"Location": target})
    client = fetcher(allow_hosts=["public.test"], names=names)
    assert failure(client, server.url("/r", "public.test"))[0] == "blocked_address"
    assert set(server.asked) == {"/robots.txt", "/r"}


@pytest.mark.parametrize("known", [True, False], ids=["its length is told", "chunked"])
def test_a_big_body_comes_through_the_disk(server: WebServer, known: bool) -> None:
    data = bytes(range(256)) * 20_000

    def answer(request: web.Request) -> web.Response:
        answered = web.Response(body=data)
        if not known:
            answered.enable_chunked_encoding()
        return answered

    server.answers["/big"] = answer
    started = fetcher(limit=10_000_000).start(server.url("/big"))
    assert isinstance(started, Fetching)
    assert started.size() == len(data) > IN_MEMORY
    assert started.result() == data


def test_redirects_are_followed_so_far(server: WebServer) -> None:
    for number in range(9):
        to = f"/r{number - 1}" if number else "/a.jpg"
        server.answers[f"/r{number}"] = lambda request, to=to: web.Response(status=301, headers={"Location": to})
    client = fetcher(redirects=3)
    assert get(client, server.url("/r2")) == b"content"
    assert failure(client, server.url("/r3")) == ("unreadable", "more than 3 redirects")


@pytest.mark.parametrize(
    "url",
    [
        "http://xn--/",
        "http:///a",
        "javascript:a",
        "ftp://x/a",
        "file:///etc/hostname",
        "a.jpg",
        "",
        "http://",
        "http://x:y/",
        "http://[::1",
    ],
)
def test_only_web_urls(url: str) -> None:
    assert failure(fetcher(), url)[0] == "bad_row"


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [(404, "gone", 1), (410, "gone", 1), (401, "forbidden", 1), (403, "forbidden", 1), (451, "forbidden", 1),
     (418, "unreadable", 1), (429, "unreachable", 3), (520, "unreachable", 3),
     (500, "unreachable", 3), (503, "unreachable", 3)],
)  # fmt: skip
def test_statuses(server: WebServer, status: int, kind: str, requests: int) -> None:
    server.answers["/x"] = lambda request: web.Response(status=status)
    assert failure(fetcher(), server.url("/x"))[0] == kind
    assert server.asked.count("/x") == requests


def test_what_passes_is_tried_again_and_waits_as_asked(server: WebServer) -> None:
    answers = [web.Response(status=503, headers={"Retry-After": "0.2"}), web.Response(body=b"late")]
    server.answers["/x"] = lambda request: answers.pop(0)
    assert get(fetcher(robots=False), server.url("/x")) == b"late"
    assert server.times[1] - server.times[0] >= 0.2
    server.answers["/y"] = lambda request: web.Response(status=429, headers={"Retry-After": "3600"})
    assert failure(fetcher(robots=False), server.url("/y"))[0] == "unreachable"
    assert server.asked.count("/y") == 1


def test_no_answer(server: WebServer) -> None:
    assert failure(fetcher(), "http://127.0.0.1:1/x")[0] == "unreachable"
    assert failure(fetcher(names=Names()), "http://absent.test/x")[0] == "unreachable"
    server.delay = 1.0
    assert failure(fetcher(timeout_seconds=0.1, attempts=1), server.url("/a.jpg"))[0] == "timeout"


@pytest.mark.parametrize("how", ["declared", "chunked", "packed"])
def test_the_body_is_cut_off_while_it_is_read(server: WebServer, how: str) -> None:
    body = b"x" * 100_000_000 if how == "packed" else b"x" * 5000

    def answer(request: web.Request) -> web.Response:
        if how == "packed":
            return web.Response(body=packed, headers={"Content-Encoding": "gzip"})
        response = web.Response(body=body)
        if how == "chunked":
            response.enable_chunked_encoding()
        return response

    packed = gzip.compress(body, 1)
    server.answers["/x"] = answer
    assert failure(fetcher(limit=4999), server.url("/x"))[0] == "too_large"
    if how != "packed":
        assert len(get(fetcher(limit=5000), server.url("/x"))) == 5000


def test_robots_txt_is_asked_once_and_heeded(server: WebServer) -> None:
    text = "User-agent: *\nDisallow: /private/\nUser-agent: caption-assets\nDisallow: /*.png$\n"
    server.answers["/robots.txt"] = lambda request: web.Response(text=text)
    server.answers["/a.png"] = server.answers["/private/a.jpg"] = server.answers["/a.jpg"]
    client = fetcher()
    assert failure(client, server.url("/a.png"))[0] == "opted_out"
    assert get(client, server.url("/private/a.jpg")) == get(client, server.url("/a.jpg")) == b"content"
    assert server.asked.count("/robots.txt") == 1
    assert "/a.png" not in server.asked
    assert get(fetcher(robots=False), server.url("/a.png")) == b"content"
    assert all("caption-assets" in agent for agent in server.agents)


def test_robots_txt_holds_for_where_a_redirect_leads(server: WebServer) -> None:
    server.answers["/robots.txt"] = lambda request: web.Response(text="User-agent: *\nDisallow: /a.jpg")
    server.answers["/r"] = lambda request: web.Response(status=302, headers={"Location": "/a.jpg"})
    assert failure(fetcher(), server.url("/r"))[0] == "opted_out"
    assert "/a.jpg" not in server.asked


@pytest.mark.parametrize("status", [429, 500, 501, 503, 520, 599])
def test_a_robots_txt_that_cannot_be_had_forbids_for_now(server: WebServer, status: int) -> None:
    server.answers["/robots.txt"] = lambda request: web.Response(status=status)
    assert failure(fetcher(), server.url("/a.jpg"))[0] == "unreachable"
    assert "/a.jpg" not in server.asked


@pytest.mark.parametrize("text", ["Disallow: /" + "*a" * 40 + "*b", "Disallow: /\n" * 40_000, "\0\xff:" * 9000])
def test_no_robots_txt_holds_us_up(server: WebServer, text: str) -> None:
    server.answers["/robots.txt"] = lambda request: web.Response(text=f"User-agent: other\nUser-agent: *\n{text}")
    path = "/" + "a" * 90
    server.answers[path] = server.answers["/a.jpg"]
    client = fetcher()
    begin = time.monotonic()
    fetches = [client.start(server.url(path)) for _ in range(20)]
    assert {type(each.exception(30)) for each in fetches} <= {type(None), FetchError}
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("status", [204, 401, 403, 404, 410])
def test_a_host_without_robots_txt_allows_everything(server: WebServer, status: int) -> None:
    server.answers["/robots.txt"] = lambda request: web.Response(status=status)
    assert get(fetcher(), server.url("/a.jpg")) == b"content"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["noai"], "noai"),
        (["all", "noarchive, NoImageAI"], "noimageai"),
        (["otherbot: noindex"], None),
        (["otherbot: noarchive, noai"], None),
        (["caption-assets: noindex"], "noindex"),
        (["*: noai"], "noai"),
        (["googlebot: nofollow", "noai"], "noai"),
        (["googlebot: noindex, caption-assets/1.0: noai"], "noai"),
        (["caption-assets: nofollow, otherbot: noai"], None),
        (["max-image-preview: none"], None),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        (["max-snippet: 5, noai"], "noai"),
        (["nofollow", ""], None),
    ],
)
def test_x_robots_tag(server: WebServer, headers: list[str], expected: str | None) -> None:
    assert opted_out(headers, Web().opt_out) == expected

    def answer(request: web.Request) -> web.Response:
        response = web.Response(body=b"content")
        for header in headers:
            response.headers.add("X-Robots-Tag", header)
        return response

    server.answers["/x"] = answer
    if expected:
        assert failure(fetcher(), server.url("/x"))[0] == "opted_out"
        assert get(fetcher(opt_out=[]), server.url("/x")) == b"content"
    else:
        assert get(fetcher(), server.url("/x")) == b"content"


def test_a_host_gets_few_requests_at_once_on_few_connections(server: WebServer) -> None:
    server.delay = 0.01
    client = fetcher(per_host=3)
    fetches = [client.start(server.url("/a.jpg")) for _ in range(30)]
    assert [each.result(60) for each in fetches] == [b"content"] * 30
    assert server.most == 3
    assert len(server.peers) <= 4


def test_a_host_gets_no_more_requests_a_second_than_agreed(server: WebServer) -> None:
    client = fetcher(per_second=50, robots=False)
    for each in [client.start(server.url("/a.jpg")) for _ in range(16)]:
        each.result(60)
    assert server.times[-1] - server.times[0] >= 0.25


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(None, 0, 0), ("", 0, 0), ("7", 7, 7), ("-5", 0, 0), ("soon", 0, 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
     ("Wed, 21 Oct 2093 07:28:00 GMT", 1e8, 1e11), ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0, 0), ("nan", 0, 0)],
)  # fmt: skip
def test_retry_after(value: str | None, low: float, high: float) -> None:
    assert low <= retry_after(value) <= high
