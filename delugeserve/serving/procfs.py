"""The processes of a running server, as Linux's ``/proc`` shows them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple


def session_members(session: int) -> list[int]:
    """Processes of the session that a guardian leads, itself left out.

    A session keeps its members when those between them and its leader die, and its number is not
    given to another as long as it has any.
    """
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        stat = _stat(entry)
        if stat and int(stat[3]) == session != int(entry.name):
            members.append(int(entry.name))
    return members


def kill_session(session: int) -> None:
    """Kill what is left of a session whose leader can no longer do it."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def model_processes(session: int) -> dict[int, str]:
    """The processes that run Python-based models, with the model's name."""
    models: dict[int, str] = {}
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            match = re.search(r"triton_python_backend_stub\0.*?/models/([^/]+)/", command)
            if match:
                models[pid] = match[1]
    return models


class Work(NamedTuple):
    """What a server and its models have done, and whether they are at it.

    Attributes:
        ticks: clock ticks of processor time so far.
        running: a thread runs, or waits for nothing but a processor.
    """

    ticks: int
    running: bool


def work(session: int) -> Work:
    """What the processes of a session have done so far."""
    ticks, running = 0, False
    for pid in session_members(session):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            if stat := _stat(task):
                ticks += int(stat[11]) + int(stat[12])
                running = running or stat[0] in "RD"
    return Work(ticks, running)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    stat = _stat(Path(f"/proc/{pid}"))
    return bool(stat) and stat[0] not in "ZX"


def _stat(entry: Path) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; empty for a process that has gone."""
    try:
        # The name before them may hold spaces and brackets.
        text = (entry / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
