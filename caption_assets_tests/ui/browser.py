"""Dagster's UI as a person uses it: pages, dialogs and the runs that they launch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect, sync_playwright

from caption_assets_tests.ui.dev_server import DATASET, WAIT_SECONDS, DevServer

SCREENSHOTS_VARIABLE = "CAPTION_ASSETS_SCREENSHOTS"
_CODE_LOCATION = "caption_assets.definitions"
_WAIT_MILLISECONDS = WAIT_SECONDS * 1000
_STEP_MILLISECONDS = 60_000.0
_CHROMIUM_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """The system's Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


class Ui:
    """One tab on a dev server."""

    def __init__(self, page: Page, server: DevServer) -> None:
        self.page, self.server = page, server
        self._shots = server.folder / "screenshots"

    def open(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(f"{self.server.url}/{path}")

    def open_partition(self, asset: str, shard: str) -> Locator:
        """Go to a shard on an asset's page; returns the metadata of its latest materialization."""
        self.open(f"assets/{asset}?view=partitions&partition={shard}")
        rows = self.page.get_by_role("row")
        expect(rows.filter(has_text="preview")).to_be_visible()
        return rows

    def open_sensor(self) -> Locator:
        """Go to the page of the dataset's sensor; returns its switch."""
        self.open(f"locations/{_CODE_LOCATION}/sensors/arrivals_{DATASET}")
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text("Running", exact=True))
        switch = row.get_by_role("checkbox")
        expect(switch).to_be_attached()
        return switch

    def switch_sensor(self, *, on: bool) -> None:
        """Start or stop the dataset's sensor, and wait until the page says so."""
        switch = self.open_sensor()
        switch.locator("xpath=ancestor::label").click()
        expect(switch).to_be_checked(checked=on)

    def open_first_tick(self) -> Locator:
        """Open the oldest tick on the sensor's page; returns its dialog."""
        return self._open_tick(self.page.get_by_text(re.compile(r"^\d+ runs? requested$")).last)

    def open_tick_with_run(self) -> Locator:
        """Open the tick that launched a run; returns its dialog."""
        return self._open_tick(self.page.get_by_text("1 run requested", exact=True).last)

    def _open_tick(self, link: Locator) -> Locator:
        link.click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Tick for")
        expect(dialog.get_by_text("Duration").first).to_be_visible()
        return dialog

    def open_graph(self, selection: str) -> None:
        """Go to the asset graph with a selection."""
        self.open(f"asset-groups~{quote(selection)}")
        expect(self._materialize_button()).to_be_visible()

    def _materialize_button(self) -> Locator:
        return self.page.get_by_role("button", name=re.compile("Materialize( all)?…")).first

    def open_materialize_dialog(self, selection: str) -> Locator:
        """Go to the asset graph with a selection and press "Materialize all"; returns the dialog."""
        self.open_graph(selection)
        self._materialize_button().click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
        expect(dialog.get_by_text("Partition selection")).to_be_visible()
        return dialog

    def pick_partition(self, dialog: Locator, partition: str) -> None:
        """Tick one partition in the dialog's list."""
        dialog.get_by_text("Select a partition").click()
        self.page.locator("label").filter(has_text=partition).first.click()
        self.page.keyboard.press("Escape")
        expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()

    def launch_run(self, dialog: Locator) -> str:
        """Launch the run of one partition and wait for its success on its page; returns its id."""
        dialog.get_by_role("button", name="Launch 1 run").click()
        self._view_launched("Launched run")
        self.page.wait_for_url("**/runs/*")
        over = self.page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        expect(over).to_have_text("Success", timeout=_WAIT_MILLISECONDS)
        return self.page.url.rsplit("/", 1)[-1]

    def launch_backfill(self, dialog: Locator) -> str:
        """Launch a backfill and wait for its success on its page; returns its id."""
        dialog.get_by_role("button", name="Launch backfill").click()
        self._view_launched("Created backfill")
        self.page.wait_for_url("**/runs/b/*")
        status = self.page.get_by_text("Status", exact=True).locator("xpath=following-sibling::div[1]")
        expect(status).to_have_text(re.compile("Succeeded|Failed|Canceled"), timeout=_WAIT_MILLISECONDS)
        expect(status).to_have_text("Succeeded")
        return self.page.url.rsplit("/", 1)[-1]

    def _view_launched(self, toast: str) -> None:
        expect(self.page.get_by_text(toast)).to_be_visible()
        view = self.page.get_by_role("button", name="View", exact=True)
        view.or_(self.page.get_by_role("link", name="View", exact=True)).last.click()

    def shot(self, name: str) -> None:
        """Keep a picture of the page, also in the folder that CAPTION_ASSETS_SCREENSHOTS names."""
        self._shots.mkdir(exist_ok=True)
        file = self._shots / f"{name}.png"
        self.page.screenshot(path=file)
        if target := os.environ.get(SCREENSHOTS_VARIABLE):
            Path(target).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


@contextmanager
def open_ui(chromium: str, server: DevServer) -> Iterator[Ui]:
    """A browser with one tab."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(_STEP_MILLISECONDS)
        expect.set_options(timeout=_STEP_MILLISECONDS)
        yield Ui(page, server)
        browser.close()
