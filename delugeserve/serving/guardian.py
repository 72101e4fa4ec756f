"""Run one server process, and clean up after it even if the process that started it is killed.

Started as a script, in a bare interpreter with the standard library only::

    python guardian.py FOLDER SHM_PREFIX GRACE_SECONDS COMMAND...

Standard input is a pipe; its other end belongs to the parent, which never writes to it. The pipe
closes when the parent ends, also by a crash or SIGKILL. The guardian sends the server SIGTERM when
it gets a signal or the pipe closes. It kills the server's whole process group when both have
happened, or after the grace time. At the end it removes the private folder and the shared-memory
regions. Its exit status is the server's, with 128 + N for a server that died of signal N.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN_STATUS = 126  # as of a shell
CANNOT_RUN = "Cannot run"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps it


def main(arguments: list[str]) -> int:
    """Run the command until it ends, or until it is told to stop; return the exit status."""
    folder, prefix, grace, *command = arguments
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        # The open file with the folder's lock is inherited, so the folder counts as in use.
        # The server leads a process group: one signal reaches the models' processes too.
        try:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, preexec_fn=_follow_guardian, cwd=folder
            )
        except OSError as error:
            # In the form of the server's own errors, for whoever reads its log.
            print(f"error: creating server: {CANNOT_RUN} {command[0]}: {error.strerror}")  # noqa: T201
            return _CANNOT_RUN_STATUS
        try:
            return _watch(server, float(grace), wake_reader, signals)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    finally:
        remove_traces(Path(folder), prefix)


def remove_traces(folder: Path, shm_prefix: str) -> None:
    """Remove a server's private folder and its shared-memory regions."""
    for region in Path(SHARED_MEMORY).glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _follow_guardian() -> None:
    """Lead a new process group, and die with the guardian (runs in the child)."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(
    server: subprocess.Popen[bytes], grace: float, wake_reader: int, signals: list[int]
) -> int:
    stopping_since: float | None = None
    lifeline: list[int] = [sys.stdin.fileno()]
    while server.poll() is None:
        left = None
        if stopping_since is not None:
            left = stopping_since + grace - time.monotonic()
            if left <= 0 or (signals and not lifeline):
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                break
        ready, _, _ = select.select([*lifeline, wake_reader], [], [], left)
        if wake_reader in ready:
            os.read(wake_reader, 512)
        gone = bool(lifeline) and lifeline[0] in ready and not os.read(lifeline[0], 512)
        if gone:
            lifeline = []
        if stopping_since is None and (signals or gone):
            stopping_since = time.monotonic()
            server.terminate()
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
