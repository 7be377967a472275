"""Shows a training run: a bar on a terminal, plain lines elsewhere, and a CSV of the loss curve."""

import csv
import sys
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from caption_assets.demo.settings import Settings

LINE_STEPS: Final = 50
_SMOOTHING: Final = 0.97
COLUMNS: Final = ("step", "minutes", "pictures", "text", "patches", "boxes", "pictures_per_second", "drawing_share")


class Progress:
    """Smooths losses and reports them; only the first process of a run shows anything."""

    def __init__(self, settings: Settings, step: int, elapsed: float) -> None:
        self._settings = settings
        self._first_step, self._first_elapsed = step, elapsed
        self._losses: dict[str, float] = {}
        self._drawing = 0.0
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._curve = settings.work / "loss.csv"

    def __enter__(self) -> Self:
        if self._settings.rank == 0:
            self._settings.work.mkdir(parents=True, exist_ok=True)
            if self._first_step == 0 or not self._curve.exists():
                self._append(COLUMNS)
            if sys.stdout.isatty():
                columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
                self._bar = Bar(*columns)
                self._task = self._bar.add_task("training", total=self._settings.minutes * 60)
                self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _append(self, values: tuple[object, ...]) -> None:
        mode = "w" if values == COLUMNS else "a"
        with self._curve.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)

    def advance(self, step: int, elapsed: float, losses: dict[str, float], drawing: float) -> None:
        """Take note of one step; `drawing` is the seconds spent on making its batch."""
        for name, value in losses.items():
            self._losses[name] = _SMOOTHING * self._losses.get(name, value) + (1 - _SMOOTHING) * value
        self._drawing += drawing
        seconds = max(1e-6, elapsed - self._first_elapsed)
        per_step = self._settings.pictures * self._settings.processes
        rate = (step - self._first_step) * per_step / seconds
        text = ", ".join(f"{name} {value:.4f}" for name, value in self._losses.items())
        if self._bar is not None:
            description = f"step {step}: {text}; {rate:.0f} pictures/s"
            self._bar.update(self._task, completed=elapsed, description=description)
        if step % LINE_STEPS:
            return
        share = self._drawing / seconds
        if self._bar is None:
            minutes = f"{elapsed / 60:.1f} of {self._settings.minutes:g} min"
            print(f"step {step}, {minutes}: {text}; {rate:.1f} pictures/s, drawing {share:.0%}", flush=True)
        values = (f"{self._losses[name]:.5f}" for name in ("text", "patches", "boxes"))
        self._append((step, f"{elapsed / 60:.2f}", step * per_step, *values, f"{rate:.1f}", f"{share:.3f}"))
