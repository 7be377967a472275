"""A receiver, and a world that tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caption_assets_tests.events.receiver import Receiver, receiving
from caption_assets_tests.events.world import SECRET, SIGNED, TOKEN, World


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK_TOKEN", TOKEN)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, receiver: Receiver) -> World:
    return World(tmp_path, [receiver.callback(**SIGNED)])
