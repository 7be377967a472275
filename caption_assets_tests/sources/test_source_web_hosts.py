"""Many hosts, dead hosts, and bodies too big to wait all at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from caption_assets.config.datasets import Web
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError
from caption_assets.sources.politeness import HostGates, Robots
from caption_assets.sources.web import WebFetcher
from caption_assets_tests.sources.web_server import Names, WebServer, web_server

QUICK = {"allow_hosts": ["127.0.0.1"], "backoff_seconds": 0.01, "per_second": 1e6}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        running.answers["/a.jpg"] = lambda request: web.Response(body=b"content")
        yield running


def fetcher(ahead: Ahead | None = None, *, names: Names | None = None, **options: Any) -> WebFetcher:
    return WebFetcher(Web(**{**QUICK, **options}), ahead or Ahead(at_once=64), resolver=names)


def outcomes(fetches: list[Future[bytes]]) -> list[str]:
    told = []
    for each in fetches:
        try:
            told.append(each.result(60).decode())
        except FetchError as error:
            told.append(f"{error.kind}: {error}")
    return told


@pytest.mark.parametrize("robots", [True, False])
def test_a_host_that_never_answers_does_not_hold_up_its_urls(server: WebServer, robots: bool) -> None:
    server.delay = 60.0
    client = fetcher(timeout_seconds=0.3, dead_after=3, robots=robots, per_host=4)
    started = time.monotonic()
    told = outcomes([client.start(server.url(f"/{number}.jpg")) for number in range(1000)])
    assert time.monotonic() - started < 20  # 1000 × 3 attempts × 0.3 s / 4 at once are 225 s
    assert len(server.asked) <= 3 + 4
    assert {each.partition(":")[0] for each in told} <= {"timeout", "unreachable"}
    assert told[-1] == "unreachable: its host gave no answer 3 times in a row"


def test_a_closed_port_is_tried_a_few_times_only() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = fetcher(dead_after=5, attempts=3, backoff_seconds=0.5, per_host=1)
    started = time.monotonic()
    told = outcomes([client.start(f"http://127.0.0.1:{port}/{number}.jpg") for number in range(200)])
    assert time.monotonic() - started < 10
    assert told[-1] == "unreachable: its host gave no answer 5 times in a row"


def test_a_host_that_comes_back_is_asked_again(server: WebServer) -> None:
    names = Names()
    client = fetcher(dead_after=2, dead_seconds=0.3, attempts=1, names=names, robots=False, allow_hosts=["x.test"])
    url = server.url("/a.jpg", "x.test")
    assert "no connection" in outcomes([client.start(url)])[0]
    names.addresses["x.test"] = "127.0.0.1"
    for _ in range(2):  # once is not dead, and an answer ends the row
        assert outcomes([client.start(url)]) == ["content"]
        client._gates.of("x.test").unanswered()
    alone = "unreachable: its host gave no answer 2 times in a row"
    names.addresses.clear()
    client._gates.of("x.test").unanswered()
    client._gates.of("x.test").unanswered()
    assert outcomes([client.start(url)]) == [alone]
    deadline = time.monotonic() + 10
    while (told := outcomes([client.start(url)])) == [alone]:
        assert time.monotonic() < deadline
    assert told == ["content"]


def test_an_answer_of_any_kind_is_an_answer(server: WebServer) -> None:
    server.answers["/busy"] = lambda request: web.Response(status=503)
    client = fetcher(dead_after=1, attempts=1)
    assert (
        outcomes([client.start(server.url("/busy")) for _ in range(3)]) == ["unreachable: the server answers 503"] * 3
    )
    assert outcomes([client.start(server.url("/a.jpg"))]) == ["content"]


def test_bodies_are_not_read_beyond_the_budget(server: WebServer) -> None:
    """The first URL is late (it is answered at its second request only): those behind must neither fill the memory,
    nor keep it from the few connections to its host."""
    late = [web.Response(status=503), web.Response(body=b"late")]
    server.answers["/late"] = lambda request: late.pop(0)
    server.answers["/big"] = lambda request: web.Response(body=b"x" * 400_000)
    server.answers["/big-unknown"] = chunked
    ahead = Ahead(at_once=64, budget=2_000_000, limit=1_000_000)
    client = fetcher(ahead, per_host=2, backoff_seconds=0.2)
    paths = ["/late", *["/big", "/big-unknown"] * 15]
    fetches = [client.start(server.url(path)) for path in paths]
    assert fetches[0].result(60) == b"late"
    assert sum(each.done() for each in fetches[1:]) <= 5
    assert [len(each.result(60)) for each in fetches[1:]] == [400_000] * 30


@pytest.mark.parametrize("limit", [400_000, 399_999])
@pytest.mark.parametrize("known", [True, False])
def test_nothing_is_kept_of_a_body_that_was_taken_or_cut_off(server: WebServer, limit: int, known: bool) -> None:
    server.answers["/big"] = (lambda request: web.Response(body=b"x" * 400_000)) if known else chunked
    client = fetcher(Ahead(at_once=64, budget=1_000_000, limit=limit))
    outcomes([client.start(server.url("/big"))])
    gc.collect()
    gc.disable()  # what only the collector frees is there for too long
    tracemalloc.start()
    try:
        fetches = [client.start(server.url("/big")) for _ in range(40)]
        for _ in range(40):
            (told,) = outcomes([fetches.pop(0)])
            assert len(told) == 400_000 or told.startswith("too_large")
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
        gc.enable()


def chunked(request: web.Request) -> web.Response:
    response = web.Response(body=b"x" * 400_000)
    response.enable_chunked_encoding()
    return response


def test_gates_of_many_hosts_are_bounded_and_one_in_use_stays() -> None:
    async def many() -> None:
        gates = HostGates(Web(per_host=1, per_second=1e6), kept=10)
        async with gates.of("used.test") as used:
            for number in range(1000):
                async with gates.of(f"{number}.test"):
                    assert len(gates) <= 11
            assert gates.of("used.test") is used
            entering = [asyncio.create_task(used.__aenter__()) for _ in range(2)]
            await asyncio.sleep(0)
            for number in range(20):
                gates.of(f"again-{number}.test")
            assert gates.of("used.test") is used
        for each in entering:
            await each
            await used.__aexit__()
        for number in range(20):
            gates.of(f"{number}.test")
        assert gates.of("used.test") is not used

    asyncio.run(many())


def test_a_gate_that_owes_time_stays() -> None:
    async def owing() -> None:
        gates = HostGates(Web(per_second=0.01), kept=1)
        async with gates.of("slow.test") as slow:
            pass
        gates.of("other.test")
        assert gates.of("slow.test") is slow

    asyncio.run(owing())


def test_robots_of_many_origins_are_bounded_by_number_and_by_length() -> None:
    asked: list[str] = []

    async def fetch(url: URL) -> tuple[int, str]:
        asked.append(str(url.host))
        return 200, "User-agent: *\nDisallow: /x\n" + "#" * 1000

    async def many() -> None:
        for robots in (Robots(fetch, kept=10), Robots(fetch, kept_text=10_000)):
            asked.clear()
            for number in range(100):
                assert await robots.allows(URL(f"http://{number}.test/a"))
                assert not await robots.allows(URL("http://0.test/x"))
            assert len(robots) <= 10
            assert asked.count("0.test") == 1  # used all the time
            await robots.allows(URL("http://1.test/a"))
            assert asked.count("1.test") == 2

    asyncio.run(many())
