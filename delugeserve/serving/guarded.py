"""A process that runs under a guardian: it stops when this process ends, and leaves nothing."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from delugeserve.serving import guardian, procfs
from delugeserve.serving.log_follower import LogFollower
from delugeserve.serving.private_folder import PrivateFolder

_log = logging.getLogger(__name__)

GRACE = 35.0  # seconds from SIGTERM to SIGKILL


def signal_name(status: int | None) -> str:
    """Return the name of the signal that an exit status stands for; empty if none.

    Args:
        status: of the guardian, 128 + N if its process died of signal N; or -N, as Python gives it.
    """
    if status is not None and (status > 128 or status < 0):
        with contextlib.suppress(ValueError):
            return signal.Signals(status - 128 if status > 0 else -status).name
    return ""


class GuardedProcess:
    """A running process with its guardian and its private folder.

    Whoever makes it must call :meth:`stop`. If this process is killed, the guardian stops the
    process and removes the folder.

    Args:
        command: program and arguments.
        folder: its private folder and working directory, removed at the end.
        environment: complete environment; None inherits this process's.
        log_file: an open file that gets the process's output, and is closed at its end.
        grace: seconds that the process has to end after SIGTERM.

    Attributes:
        folder: see above.
        pid: process number of the guardian, which leads the session of the process.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: PrivateFolder,
        environment: Mapping[str, str] | None = None,
        log_file: TextIO | None = None,
        grace: float = GRACE,
    ) -> None:
        self.folder = folder
        self._grace = grace
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(Path(guardian.__file__))),
                *(str(folder.path), folder.shm_prefix, str(grace)),
                *command,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(folder.lock.fileno(),),
            start_new_session=True,
        )
        self.pid = self._process.pid
        if self._process.stdout is None:  # for the type checker: PIPE was asked for
            raise RuntimeError
        self._follower = LogFollower(self._process.stdout, log_file)
        _log.debug("started process %d: %s", self.pid, " ".join(command))

    def poll(self) -> int | None:
        """Return the exit status of a process that has ended, else None."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end by itself; return its exit status.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def lines(self) -> list[str]:
        """Return the last lines of the output so far."""
        return self._follower.lines()

    def finish(self) -> list[str]:
        """Wait for the end of the output, and return its last lines."""
        return self._follower.finish()

    def terminate(self) -> None:
        """Send SIGTERM to the process; return at once."""
        self._process.terminate()

    def stop(self) -> None:
        """End the process and everything it started, and remove its folder.

        A process that got SIGTERM before is killed now. Any other has the grace time to end.
        """
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(self._grace + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.kill_rest()
        self._follower.finish()
        self.folder.remove()

    def kill_rest(self) -> None:
        """Kill what the process started and left: if its guardian was killed, nobody else does."""
        procfs.kill_session(self.pid)
