"""Pictures on their way to servers: sent once where a server keeps them by name, always where it does not."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from PIL import Image

from caption_assets.engine.openai_engine import OpenAIServers
from caption_assets.engine.protocol import EngineReply
from caption_assets_tests.engine.pools import request, run, section, with_engine
from caption_assets_tests.engine.stub_server import StubServer


def picture(number: int) -> dict[str, Any]:
    """A small picture of its own colour, by name and file."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (20 * number, 30, 30)).save(buffer, "jpeg")
    return {"image_file": buffer.getvalue(), "image_id": f"picture {number}"}


async def greeted(engine: OpenAIServers) -> None:
    """Have the servers looked at, which goes on beside the first requests."""
    await engine.generate(request(-1))
    while not all(each.keeps_pictures for each in engine.servers):
        await asyncio.sleep(0.005)


async def ask_about(engine: OpenAIServers, pictures: int, perspectives: int) -> list[EngineReply]:
    """Every perspective on every picture, all at once."""
    asked = [
        engine.generate(request(perspective, **picture(number)))
        for number in range(pictures)
        for perspective in range(perspectives)
    ]
    return await asyncio.gather(*asked)


@pytest.mark.parametrize("count", [1, 3])
def test_a_picture_is_sent_once_and_its_perspectives_stay_together(count: int) -> None:
    async def use(engine: OpenAIServers) -> list[EngineReply]:
        await greeted(engine)
        return await ask_about(engine, 10, 4)

    servers = [StubServer(keeps=100, latency=0.01) for _ in range(count)]
    for each in servers:
        each.start()
    replies = run(with_engine(section(*servers, max_in_flight=60), use))
    for each in servers:
        each.stop()
    assert len(replies) == 40
    sent = [url for each in servers for url in each.pictures]
    assert len(sent) == len(set(sent)) == 10
    assert sum(len(each.calls) for each in servers) == 41, "nobody was asked in vain"


def test_servers_that_keep_nothing_are_sent_it_each_time_without_a_name() -> None:
    with StubServer() as server:
        run(with_engine(section(server), lambda engine: ask_about(engine, 2, 3)))
    assert len(server.pictures) == len(server.calls) == 6


def test_it_can_be_turned_off() -> None:
    async def use(engine: OpenAIServers) -> None:
        await engine.generate(request(-1))
        await asyncio.sleep(0.05)
        await ask_about(engine, 2, 3)

    with StubServer(keeps=10) as server:
        run(with_engine(section(server, image={"once": False}), use))
    assert len(server.pictures) == 6


def test_a_server_that_forgets_is_sent_it_again_and_in_the_end_always() -> None:
    async def use(engine: OpenAIServers) -> list[EngineReply]:
        await greeted(engine)
        replies = [
            await engine.generate(request(perspective, **picture(number)))
            for perspective in range(8)
            for number in range(3)  # by the time the first is asked about again, it is forgotten
        ]
        assert not engine.servers[0].keeps_pictures
        return replies

    with StubServer(keeps=2) as server:
        replies = run(with_engine(section(server), use))
    with StubServer() as plain:
        expected = run(with_engine(section(plain), lambda engine: ask_about(engine, 3, 8)))
    assert sorted(each.text for each in replies) == sorted(each.text for each in expected)
    assert len(server.pictures) == 8 * 3
    assert len(server.calls) - 1 - 8 * 3 == 5, "asked in vain a few times only"


def test_a_server_that_returns_is_sent_everything_anew() -> None:
    async def use(engine: OpenAIServers) -> None:
        await greeted(engine)
        await ask_about(engine, 3, 2)
        await asyncio.to_thread(server.stop)
        server._kept.clear()  # it has started anew
        asked = asyncio.ensure_future(engine.generate(request(7, **picture(0))))
        while engine.servers[0].away is None:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.start)
        await asked
        await ask_about(engine, 3, 2)
        assert engine.servers[0].missed == 0

    with StubServer(keeps=100) as server:
        run(with_engine(section(server), use))
    assert len(server.pictures) == 6


def test_the_same_picture_made_anew_has_another_name() -> None:
    async def use(engine: OpenAIServers) -> None:
        await greeted(engine)
        await engine.generate(request(0, **picture(0)))

    with StubServer(keeps=100) as server:
        run(with_engine(section(server), use))
        run(with_engine(section(server, image={"format": "png"}), use))  # another run, another form of the picture
    assert len(set(server._kept)) == 2
