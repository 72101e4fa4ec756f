"""Shows :class:`~delugeserve.system.progress.Progress` on standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from delugeserve.cli.render.console import err_console
from delugeserve.system.progress import Progress

_INTERVAL_S = 5.0
# Columns of a line beside its bar. In a line that fills the terminal, the ^C that is echoed would
# wrap, and the line would not be erased.
_TEXT = 60


@contextmanager
def show_progress(*, animate: bool = True) -> Iterator[Progress]:
    """Yield what long work reports to: a bar on a terminal, a line every five seconds elsewhere.

    Args:
        animate: redraw the bar ten times a second. Otherwise it is drawn when a stage begins and
            when steps are done, which leaves the CPU to what is being measured.
    """
    if err_console.is_terminal:
        with _TerminalProgress(animate) as terminal:
            yield terminal
    else:
        with _PlainProgress(_INTERVAL_S) as plain:
            yield plain


class _TerminalProgress:
    """One bar, which shows the current stage."""

    def __init__(self, animate: bool) -> None:
        self._animate = animate
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(max(10, min(40, err_console.width - _TEXT))),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=err_console,
            transient=True,
            auto_refresh=animate,
        )
        self._task = self._bar.add_task("", total=None, visible=False, note="", count="")

    def __enter__(self) -> _TerminalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        self._bar.remove_task(self._task)  # resetting it would keep its total
        self._task = self._bar.add_task(name, total=total, note="", count="")
        self._show_count()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bar.update(self._task, advance=steps, note=note)
        self._show_count()

    def _show_count(self) -> None:
        task = self._bar.tasks[0]
        count = f"{task.completed:,.0f}" if task.completed else ""
        if task.total is not None:
            count = f"{task.completed:,.0f}/{task.total:,.0f}"
        self._bar.update(self._task, count=count)
        if not self._animate:
            self._bar.refresh()


class _PlainProgress:
    """A line about the current stage, whenever nothing has been said for a while."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._name, self._note = "", ""
        self._done, self._total = 0, None  # type: tuple[int, int | None]
        self._started = self._stage_started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> _PlainProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def stage(self, name: str, total: int | None = None) -> None:
        self._name, self._note, self._done, self._total = name, "", 0, total
        self._stage_started = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self._note = note

    def _report(self) -> None:
        while not self._ended.wait(self._interval_s):
            if not self._name:
                continue
            if self._total:
                count = f" {self._done:,} of {self._total:,}"
            else:
                count = f" {self._done:,}" if self._done else ""
            note = f", {self._note}" if self._note else ""
            now = time.monotonic()
            err_console.print(
                f"{self._name}{count}{note}, {now - self._started:.0f} s{self._left(now)}"
            )

    def _left(self, now: float) -> str:
        """Return the time left at the rate of the stage so far."""
        if not self._total or not 0 < self._done < self._total:
            return ""
        seconds = (now - self._stage_started) * (self._total - self._done) / self._done
        return f", {timedelta(seconds=round(seconds))} left"
