"""Follow the output of a process in the background."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import IO, TextIO

_KEPT_LINES = 2000


class LogFollower:
    """Reads a stream to its end in the background, and keeps the last lines in memory.

    Args:
        stream: the stream, read until it ends: the server would block on a full pipe.
        file: open file that gets every line, and is closed at the end. If the disk is full, the
            file ends there.
    """

    def __init__(self, stream: IO[bytes], file: TextIO | None = None) -> None:
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._file = file
        self._thread = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Return the lines so far, without newlines."""
        return list(self._lines)

    def finish(self, timeout: float = 5.0) -> list[str]:
        """Wait up to ``timeout`` seconds for the end of the stream; return the lines."""
        self._thread.join(timeout)
        return self.lines()

    def _read(self) -> None:
        with self._stream:
            for raw in self._stream:
                line = raw.decode("utf-8", "replace").rstrip()
                self._lines.append(line)
                self._write(line)
        self._close()

    def _write(self, line: str) -> None:
        if self._file:
            try:
                self._file.write(line + "\n")
            except OSError:  # the disk is full
                self._close()

    def _close(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
