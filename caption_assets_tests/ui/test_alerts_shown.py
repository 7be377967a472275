"""Alerts on the pages of a running Dagster: checks that fail, and a freshness policy that its daemon finds broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from caption_assets_tests.ui.browser import Ui, find_chromium, open_ui
from caption_assets_tests.ui.dev_server import DATASET, DevServer, dev_server, wait_for

CHROMIUM = find_chromium()
SHORTEST_HOURS = 0.05
JUNK = 5
LATE_WITHIN = SHORTEST_HOURS * 3600 + 120
_FRESHNESS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
    ... on AssetNode { freshnessStatusInfo { freshnessStatus } } } }"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")]


def freshness(server: DevServer) -> str:
    """What the freshness daemon found of the dataset's arrivals."""
    key = {"path": ["arrivals", DATASET]}
    return str(server.query(_FRESHNESS, {"key": key})["assetNodeOrError"]["freshnessStatusInfo"]["freshnessStatus"])


def expect_check(ui: Ui, asset: str, check: str, result: str, says: str) -> None:
    """Go to a check's page, again until the latest execution is the one that is expected."""

    def shows() -> bool:
        ui.open(f"assets/{asset}?view=checks&checkDetail={check}")
        expect(ui.page.get_by_text("Latest execution")).to_be_visible()
        expect(ui.page.get_by_text("Evaluation result").or_(ui.page.get_by_text("No executions"))).to_be_visible()
        return says in ui.page.inner_text("body")

    wait_for(f"{check} to say {says!r}", shows)
    expect(ui.page.get_by_text(result, exact=True).last).to_be_visible()
    ui.shot(f"check-{check}-{result.lower()}")


def test_limits_that_are_passed_are_seen_to_fail(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    limits = {
        "arrivals": {DATASET: {"within_hours": SHORTEST_HOURS}},
        "failure_share": 0.2,
        "min_pictures": JUNK,
        "queue_minutes": 600,
    }
    with dev_server(tmp_path, alerts=limits) as server, open_ui(CHROMIUM, server) as ui:
        for number in range(JUNK):
            (server.pictures / f"{number}.jpg").write_bytes(b"this is no picture")
        wait_for("something new", lambda: freshness(server) == "HEALTHY")
        expect_check(ui, f"arrivals/{DATASET}", "arrivals", "Passed", "within the limit")
        failed = f"{DATASET}, media: {JUNK} of {JUNK} pictures failed (not_an_image: {JUNK})"
        expect_check(ui, "catalog", "failure_share", "Failed", failed)
        expect_check(ui, "catalog", "queue_age", "Passed", "within the limit")
        wait_for("a broken freshness policy", lambda: freshness(server) == "DEGRADED", LATE_WITHIN)
        ui.open(f"assets/arrivals/{DATASET}")
        expect(ui.page.get_by_text("Fails if more than 3 minutes since last materialization")).to_be_visible()
        expect(ui.page.get_by_text("Failed", exact=True).first).to_be_visible()
        ui.shot("freshness-failed")
        expect_check(ui, f"arrivals/{DATASET}", "arrivals", "Failed", f"{DATASET}: nothing new since")
