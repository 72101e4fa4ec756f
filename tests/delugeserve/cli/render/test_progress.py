"""Progress as a person sees it: a bar on a terminal, lines elsewhere."""

import io
import re
import time

import pytest
from rich.console import Console

from delugeserve.cli.render import progress as module
from delugeserve.cli.render.progress import show_progress


@pytest.fixture
def console(monkeypatch):
    """Replace standard error's console; return what makes a new one."""

    def replace(*, terminal):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        monkeypatch.setattr(module, "err_console", console)
        return console

    return replace


@pytest.mark.parametrize("animate", [True, False])
def test_a_terminal_shows_the_stage_its_count_and_its_note(console, animate):
    file = console(terminal=True).file
    with show_progress(animate=animate) as progress:
        progress.stage("calibrate", 4)
        progress.advance(3, note="loss 1.5")
        module.err_console.print("a line in between")
    shown = file.getvalue()
    assert "calibrate" in shown
    assert "a line in between" in shown
    if not animate:  # drawn at each step; otherwise a thread decides when
        assert "3/4" in shown
        assert "loss 1.5" in shown


def test_a_stage_without_a_total_shows_no_count(console):
    file = console(terminal=True).file
    with show_progress(animate=False) as progress:
        progress.stage("read", 2)
        progress.advance()
        progress.stage("build")
    last = file.getvalue().rpartition("build")[2]
    assert "/" not in last  # neither 0/? nor the count of the stage before


def test_elsewhere_a_line_appears_now_and_then(console, monkeypatch):
    file = console(terminal=False).file
    monkeypatch.setattr(module, "_INTERVAL_S", 0.01)
    with show_progress() as progress:
        progress.stage("calibrate", 4)
        progress.advance(3, note="loss 1.5")
        while "calibrate 3 of 4, loss 1.5, " not in file.getvalue():
            time.sleep(0.01)
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_leaves_room_for_what_the_terminal_echoes(console, monkeypatch, width):
    file = console(terminal=True).file
    module.err_console.width = width
    with show_progress(animate=False) as progress:
        progress.stage("epoch 3/30, 44 s left, batch", 391)
        progress.advance(120, note="loss 2.136")
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue()))
    assert 60 < max(map(len, lines)) <= width - 2


def test_a_line_tells_the_time_left(console, monkeypatch):
    file = console(terminal=False).file
    monkeypatch.setattr(module, "_INTERVAL_S", 0.01)
    with show_progress() as progress:
        progress.stage("classify", 1_000_000)
        progress.advance(1000)
        while not re.search(
            r"classify 1,000 of 1,000,000, \d+ s, \d+:\d\d:\d\d left", file.getvalue()
        ):
            time.sleep(0.01)
        progress.stage("classify")
        progress.advance(2000)
        while not re.search(r"classify 2,000, \d+ s\n", file.getvalue()):
            time.sleep(0.01)
