"""Progress: a line every so often, also while nothing moves, with the failures by kind."""

import threading
from concurrent.futures import Future

from caption_assets.lake.layout import Shard
from caption_assets.media.progress import ProgressMeter

SHARD = Shard("d", 0)


def test_lines_come_while_nothing_moves() -> None:
    told: list[str] = []
    meter = ProgressMeter(SHARD, 10, told.append, every=0.02)
    stuck: Future[bytes] = Future()
    enough = threading.Event()
    meter._tell = lambda line: (told.append(line), len(told) >= 3 and enough.set())  # type: ignore[assignment,func-returns-value]
    threading.Thread(target=lambda: (enough.wait(10), stuck.set_exception(OSError())), daemon=True).start()
    meter.wait_for(stuck)
    assert told[0] == "d-000000: 0/10 pictures so far"
    assert len(told) >= 3


def test_lines_count_failures_by_kind() -> None:
    told: list[str] = []
    meter = ProgressMeter(SHARD, 4, told.append, every=0.0)
    for kind in (None, "gone", "timeout", "gone"):
        meter.count(kind)
    assert told[0].startswith("d-000000: 1/4 pictures, ")
    assert told[-1].endswith("0 s to go, 3 failed (gone: 2, timeout: 1)")


def test_what_is_kept_counts_but_not_for_the_rate() -> None:
    meter = ProgressMeter(SHARD, 3, lambda line: None, kept=7)
    assert (meter.progress().settled, meter.progress().rate) == (7, 0.0)
    meter.count()
    meter.count("gone")
    now = meter.progress()
    assert (now.total, now.done, now.failed, now.failure_kinds) == (10, 8, 1, {"gone": 1})
    assert now.rate > 0


def test_no_line_before_its_time() -> None:
    told: list[str] = []
    meter = ProgressMeter(SHARD, 2, told.append)
    meter.count()
    meter.count()
    assert told == []
