"""The processes of a server, and what is left of them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from delugeserve.serving import procfs

HANG = 240  # seconds after which a test counts as hung; no test depends on it


def family(pid: int) -> dict[int, str]:
    """Process numbers and command lines of all descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(entry.name)] = int(stat[1])
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        for child, its_parent in parents.items():
            if its_parent == parent:
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                    found[child] = command
                todo.append(child)
    return found


def folder_of(processes: dict[int, str]) -> Path:
    for command in processes.values():
        if match := re.search(r"--model-repository=(\S+)/models", command):
            return Path(match[1])
    raise AssertionError(processes)


def traces(processes: dict[int, str]) -> list[object]:
    """What is left of a server: processes, its folder, shared memory."""
    folder = folder_of(processes)
    alive = [pid for pid in processes if procfs.is_alive(pid)]
    return [*alive, *Path("/dev/shm").glob(f"{folder.name}*"), *([folder] * folder.exists())]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
