"""Read about the processes of a server from Linux's ``/proc``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


def session_members(session: int) -> list[int]:
    """Return the processes of the session that a guardian leads, without the guardian.

    Processes stay in the session when their parents die, and the kernel does not reuse the number
    of a session that has members.
    """
    members = []
    # The supervisor asks many times a second, and a machine may have thousands of processes: a
    # system call for each costs a fortieth of reading its file.
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                if os.getsid(pid := int(name)) == session != pid:
                    members.append(pid)
            except OSError:  # it has just ended
                continue
    return members


def kill_session(session: int) -> None:
    """Kill what is left of a session when its leader can no longer do it."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def model_processes(session: int) -> dict[int, str]:
    """Return the processes that run Python-based models, with the model's name."""
    models: dict[int, str] = {}
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            match = re.search(r"triton_python_backend_stub\0.*?/models/([^/]+)/", command)
            if match:
                models[pid] = match[1]
    return models


class Work(NamedTuple):
    """Work of a server and its models.

    Attributes:
        ticks: CPU time so far, in clock ticks.
        running: a thread is running or ready to run.
    """

    ticks: int
    running: bool


def work(session: int) -> Work:
    """Return the work of a session's processes so far."""
    return work_of(session_members(session))


def work_of(processes: Iterable[int]) -> Work:
    """Return the work of some processes so far."""
    ticks, running = 0, False
    for pid in processes:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            if stat := _stat(task):
                ticks += int(stat[11]) + int(stat[12])
                running = running or stat[0] in "RD"
    return Work(ticks, running)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    stat = _stat(f"/proc/{pid}")
    return bool(stat) and stat[0] not in "ZX"


def is_suspended(pid: int) -> bool:
    """Return whether a process was stopped by a signal, such as SIGSTOP."""
    stat = _stat(f"/proc/{pid}")
    return bool(stat) and stat[0] == "T"


def children(parent: int, session: int) -> list[int]:
    """Return the processes of a session that a process of it has started."""
    return [
        pid
        for pid in session_members(session)
        if (stat := _stat(f"/proc/{pid}")) and int(stat[1]) == parent
    ]


def memory(session: int) -> int:
    """Return the memory of a session's processes in bytes; what they share counts once."""
    total = 0
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            match = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
            total += int(match[1]) << 10 if match else 0
    return total


def _stat(entry: str | Path) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on; empty if the process is gone."""
    # Without pathlib and a buffer: the supervisor asks more than a hundred times a second.
    try:
        file = os.open(f"{entry}/stat", os.O_RDONLY)
        try:
            text = os.read(file, 4096)
        finally:
            os.close(file)
    except OSError:
        return []
    # The program's name before them may contain spaces and brackets.
    return text.decode("ascii", "replace").rpartition(")")[2].split()
