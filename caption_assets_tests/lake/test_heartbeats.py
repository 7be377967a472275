"""Heartbeats: seen from outside while work lasts, gone when it is done, closed with the reason when it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from caption_assets.lake import layout
from caption_assets.lake.heartbeats import LOST_AFTER_SECONDS, Beat, Heartbeat, LookProgress, read_beats
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake

SHARDS = [Shard("demo", number) for number in range(3)]
STAGES = {"look": "f1"}


def progress(shard: Shard, done: int = 3) -> LookProgress:
    return LookProgress(shard.dataset, shard.key, "look", "f1", 10, done, 1, {"empty": 1}, 2.0)


def beating(lake: Lake, run_id: str = "run", shards: list[Shard] = SHARDS, **options: object) -> Heartbeat:
    return Heartbeat(lake, run_id, "captions", STAGES, shards, "me", interval=0.01, **options)  # type: ignore[arg-type]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def only(lake: Lake) -> Beat:
    (beat,) = read_beats(lake)
    return beat


def test_it_says_what_is_begun_and_what_waits(lake: Lake) -> None:
    with beating(lake) as heartbeat:
        heartbeat.watch(lambda: [progress(SHARDS[0])])
        wait_for(lambda: [beat for beat in read_beats(lake) if beat.looks])
        beat = only(lake)
        assert (beat.state, beat.looks, list(beat.waiting)) == (
            "running",
            [progress(SHARDS[0])],
            ["demo-000001", "demo-000002"],
        )
        assert beat.worker.startswith("me-")
        assert beat.stages == [{"stage": "look", "fingerprint": "f1"}]
        heartbeat.finished(SHARDS[0])
        wait_for(lambda: not only(lake).looks)
        assert only(lake).shards == {"demo-000001", "demo-000002"}
    assert read_beats(lake) == []


def test_a_run_without_shards_says_nothing(folder_lake: Lake) -> None:
    with beating(folder_lake, shards=[]):
        assert threading.active_count() >= 1
    assert folder_lake.list(layout.RUNNING) == []


@pytest.mark.parametrize(
    ("error", "state", "said"), [(ValueError("no luck"), "failed", "no luck"), (KeyboardInterrupt(), "cancelled", None)]
)
def test_what_ends_badly_says_why_until_it_is_done(
    folder_lake: Lake, error: BaseException, state: str, said: str | None
) -> None:
    def work() -> None:
        with beating(folder_lake) as heartbeat:
            heartbeat.watch(lambda: [progress(SHARDS[1])])
            heartbeat.finished(SHARDS[0])
            raise error

    with pytest.raises(type(error)):
        work()
    beat = only(folder_lake)
    assert (beat.state, beat.error, beat.shards) == (state, said, {"demo-000001", "demo-000002"})
    with beating(folder_lake, "other", SHARDS[:2]):
        pass
    assert only(folder_lake).shards == {"demo-000002"}, "one of its shards is still to do"
    with beating(folder_lake, "third", SHARDS[2:]):
        pass
    assert read_beats(folder_lake) == []


def test_a_dead_worker_is_known_by_its_silence_and_forgotten_once_its_work_is_done(folder_lake: Lake) -> None:
    started = time.time()
    beat = Beat("dead", "captions", "me-1", [{"stage": "look", "fingerprint": "f1"}], started, started, 1.0)
    beat.waiting = ["demo-000000"]
    folder_lake.write(layout.heartbeat_file("dead"), beat.content())
    assert not only(folder_lake).is_lost(started + LOST_AFTER_SECONDS - 1)
    assert only(folder_lake).is_lost(started + LOST_AFTER_SECONDS + 1)
    with beating(folder_lake, shards=SHARDS[:1]):
        pass
    assert only(folder_lake).run_id == "dead", "it may be alive"
    with beating(folder_lake, shards=SHARDS[:1], clock=lambda: started + 2 * LOST_AFTER_SECONDS):
        pass
    assert read_beats(folder_lake) == []


def test_trouble_with_the_lake_is_not_the_works(folder_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def full(self: Lake, relative: str, data: bytes) -> None:
        tried.set()
        raise OSError("no room")

    monkeypatch.setattr(Lake, "write", full)
    with beating(folder_lake):
        assert tried.wait(30)


def test_files_of_others_are_no_heartbeats(folder_lake: Lake) -> None:
    for content in (b"", b"[]", b"{}", b'{"version": 1, "looks": []}'):
        folder_lake.write(layout.heartbeat_file("strange"), content)
        assert read_beats(folder_lake) == []
