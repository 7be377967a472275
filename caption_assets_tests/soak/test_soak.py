"""The whole pipeline left to itself, under attack: nothing lost, nothing twice, everyone told, and memory flat.

Uploads at random times, prompts edited twice, runs and the daemon killed at random; then a calm in which uploads go on
and the daemon's memory is watched. `CAPTION_ASSETS_SOAK_MINUTES` (12) says for how long, `CAPTION_ASSETS_SOAK_SEED` (5)
chooses the moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from caption_assets.captioning.catalog import open_views
from caption_assets.demo.scenes import write_scenes
from caption_assets.lake.store import Lake
from caption_assets_tests import invariants
from caption_assets_tests.soak.world import World, wait_until, world

MINUTES = float(os.environ.get("CAPTION_ASSETS_SOAK_MINUTES", "12"))
SEED = int(os.environ.get("CAPTION_ASSETS_SOAK_SEED", "5"))
_CHAOS_SHARE = 0.5
"""Of the time, in which processes are killed."""
_WARM_UP_SHARE = 0.15
_SETTLE_SECONDS = 600.0
_MEGABYTES_A_MINUTE = 1.0


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 2 * _SETTLE_SECONDS)
def test_nobody_has_to_watch(tmp_path: Path) -> None:
    pictures = tmp_path / "scenes"
    pictures.mkdir()
    write_scenes(pictures, 160, SEED)
    files = [file.read_bytes() for file in sorted(pictures.iterdir()) if file.suffix in (".png", ".jpg")]
    with world(tmp_path) as here:
        over = threading.Event()
        uploading = threading.Thread(target=_upload, args=(here, files, over), daemon=True)
        uploading.start()
        kills = _chaos(here, MINUTES * 60 * _CHAOS_SHARE)
        growth = _calm(here, MINUTES * 60 * (1 - _CHAOS_SHARE))
        over.set()
        uploading.join(60)
        wait_until("every picture has its captions", lambda: _settled(here), _SETTLE_SECONDS, between=5)
        _everything_holds(here)
        wait_until("every outcome was told", lambda: _told(here) >= _done(here), _SETTLE_SECONDS, between=5)
        assert _told(here) == _done(here)
        wait_until("every caption was published", lambda: _published(here) >= _captions(here), _SETTLE_SECONDS, 5)
        assert _published(here) == _captions(here)
        print(f"{len(here.uploaded)} pictures, kills {dict(kills)}, daemon {growth:+.2f} MB a minute")
        assert kills["daemon"] >= 2
        assert kills["run"] >= 3
        assert growth <= _MEGABYTES_A_MINUTE


def _upload(here: World, files: list[bytes], over: threading.Event) -> None:
    """Upload at random times: single pictures, handfuls, some of them replaced later."""
    chance = random.Random(SEED)
    for number in range(10_000):
        for _ in range(chance.choice([1, 1, 2, 5, 20])):
            if not files:
                return
            here.upload(f"{chance.randrange(10**6):06d}-{number}.png", files.pop())
        if over.wait(chance.uniform(2, 60 * MINUTES / 30)):
            return


def _chaos(here: World, seconds: float) -> Counter[str]:
    """Kill runs and the daemon at random, and edit prompts twice."""
    chance = random.Random(SEED + 1)
    kills: Counter[str] = Counter()
    started = time.monotonic()
    edits = [(0.3, "described", "Describe it in a few words."), (0.7, "counted", "How much is in it?")]
    kill_at = started + chance.uniform(10, 25)
    daemon_at = [started + seconds * share for share in (0.25, 0.6, 0.9)]
    while (now := time.monotonic()) < started + seconds:
        if edits and now > started + edits[0][0] * seconds:
            here.prompt(*edits.pop(0)[1:])
        if now > kill_at and here.dagster.kill_worker():
            kills["run"] += 1
            kill_at = now + chance.uniform(10, 40)
        if daemon_at and now > daemon_at[0]:
            daemon_at.pop(0)
            here.dagster.kill_daemon()
            kills["daemon"] += 1
        time.sleep(0.2)
    assert not edits
    return kills


def _calm(here: World, seconds: float) -> float:
    """Watch the daemon's memory after its warm-up; returns megabytes a minute, by least squares."""
    daemon = here.dagster.daemon()
    assert daemon is not None
    started = time.monotonic()
    samples: list[tuple[float, float]] = []
    while (now := time.monotonic()) < started + seconds:
        if now > started + seconds * _WARM_UP_SHARE:
            samples.append(((now - started) / 60, daemon.memory_info().rss / 1e6))
        time.sleep(1.0)
    assert here.dagster.daemon() == daemon, "the daemon died in the calm"
    assert psutil.pid_exists(daemon.pid)
    return float(np.polyfit(*np.array(samples).T, 1)[0])


def _settled(here: World) -> bool:
    """Whether all that was uploaded is planned, and nothing is missing or stale."""
    with open_views(here.config) as views:
        planned = views.execute("SELECT count(DISTINCT uri) FROM media").fetchone()
        stale = views.execute("SELECT count(*) FROM stale").fetchone()
    assert planned is not None
    assert stale is not None
    return planned[0] == len(here.uploaded) and not stale[0] and not here.dagster.workers()


def _everything_holds(here: World) -> None:
    """Every picture has exactly one current row a perspective, made with the prompts as they are now."""
    config = here.config
    lake = Lake(config.lake)
    invariants.hold(config, lake, "uploads")
    invariants.complete(config, lake)
    with open_views(config) as views:
        for name in config.perspectives.enabled:
            rows = f'media JOIN "captions_{name}" USING (media_id) WHERE is_current'
            current = views.execute(f"SELECT media.uri, count(*) FROM {rows} GROUP BY 1").fetchall()
            assert dict(current) == dict.fromkeys(here.uploaded, 1), name


def _done(here: World) -> set[tuple[str, ...]]:
    """What runs did to shards, as the lake has it."""
    with open_views(here.config) as views:
        rows = views.execute("SELECT run_id, shard, coalesce(perspective, 'media'), done FROM runs").fetchall()
    return {tuple(map(str, row)) for row in rows}


def _told(here: World) -> set[tuple[str, ...]]:
    """The same, as the receiver of callbacks was told."""
    found: set[tuple[str, ...]] = set()
    for delivery in list(here.receiver.requests):
        event = delivery.event
        data = event["data"]
        if event["type"] == "shard.media":
            found.add((data["run_id"], data["shard"], "media", str(data["done"])))
        for each in data.get("perspectives", []) if event["type"] == "shard.captions" else []:
            found.add((data["run_id"], data["shard"], each["perspective"], str(each["done"])))
    return found


def _captions(here: World) -> set[tuple[str, ...]]:
    """Pictures and captions of all forms that the lake has."""
    config = here.config
    with open_views(config) as views:
        found = {("media", str(row[0])) for row in views.execute("SELECT media_id FROM media").fetchall()}
        for name in config.perspectives.enabled:
            files = f"{config.lake}/captions/perspective={name}/**/*.parquet"  # views show one form a picture
            rows = views.execute("SELECT media_id, fingerprint FROM read_parquet(?)", [files]).fetchall()
            found |= {(name, media_id, fingerprint) for media_id, fingerprint in rows}
    return found


def _published(here: World) -> set[tuple[str, ...]]:
    """The same, as Kafka has it."""
    found = {("media", each.data["media_id"]) for each in here.kafka.received("media.processed")}
    for each in here.kafka.received("captions.result"):
        found.add((each.data["perspective"], each.data["media_id"], each.data["fingerprint"]))
    return found
