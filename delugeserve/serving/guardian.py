"""Runs one server process and outlives whoever asked for it by just long enough to clean up.

Started as a script by the supervisor, by the bare interpreter, with the standard library alone::

    python guardian.py FOLDER SHM_PREFIX GRACE_SECONDS COMMAND...

Standard input is a pipe whose other end the supervisor holds and never writes to. When it closes,
the supervisor has gone, however it went: killed, crashed or done. That, or SIGTERM, makes the
guardian ask the server to stop; both, or the end of the grace time, make it kill the server's whole
process group. In the end it removes the private folder and the shared-memory regions. Its exit
status is the server's, with 128 + N for a server that died of signal N.
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
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps it


def main(arguments: list[str]) -> int:
    """Run the command until it ends or has to."""
    folder, prefix, grace, *command = arguments
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: asked.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        # The folder's lock came with us, open: as long as we live, nobody takes it for litter.
        # A group of its own, so that one signal reaches the model processes as well, and not us.
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, preexec_fn=_follow_guardian, cwd=folder
        )
        try:
            return _watch(server, float(grace), wake_reader, asked)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    finally:
        remove_traces(Path(folder), prefix)


def remove_traces(folder: Path, shm_prefix: str) -> None:
    """Remove a server's private folder and its shared-memory regions."""
    for region in Path(_SHARED_MEMORY).glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _follow_guardian() -> None:
    """In the child: lead a new group, and die with the guardian should it be killed outright."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(
    server: subprocess.Popen[bytes], grace: float, wake_reader: int, asked: list[int]
) -> int:
    stopping_since: float | None = None
    lifeline: list[int] = [sys.stdin.fileno()]
    while server.poll() is None:
        left = None
        if stopping_since is not None:
            left = stopping_since + grace - time.monotonic()
            if left <= 0 or (asked and not lifeline):
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                break
        ready, _, _ = select.select([*lifeline, wake_reader], [], [], left)
        if wake_reader in ready:
            os.read(wake_reader, 512)
        gone = bool(lifeline) and lifeline[0] in ready and not os.read(lifeline[0], 512)
        if gone:
            lifeline = []
        if stopping_since is None and (asked or gone):
            stopping_since = time.monotonic()
            server.terminate()
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
