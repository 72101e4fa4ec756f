"""Follow a server's log, and find in it why the server did not start."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from typing import IO, TextIO

_KEPT_LINES = 2000

# The server's own log lines: severity, date, time, thread, source file and line.
_PREFIX = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] +")
_BORDER = re.compile(r"^\+[-+]+\+$")
_REFUSED = re.compile(
    r"(?:Poll failed for model directory|failed to load model) '([^']+)': (.*?)\"?$"
)
# Written at every start on a machine without a GPU.
_NOISE = re.compile(r"NVML|CudaDriverHelper|DCGM|pinned_memory_manager|chttp2_server")


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


def tail(lines: list[str], count: int = 12) -> str:
    """Return the last lines without tables of settings and warnings about absent GPUs."""
    useful = [
        line
        for line in lines
        if line and not line.startswith(("|", "+")) and not _NOISE.search(line)
    ]
    return "\n".join(useful[-count:])


def failed_models(lines: list[str]) -> dict[str, str]:
    """Return why models did not load, by model, from the server's status table and log lines."""
    reasons: dict[str, str] = {}
    for line in lines:
        if match := _REFUSED.search(line):
            reasons[match[1]] = tidy(match[2])
    for name, status in _table(lines):
        if status != "READY":
            reasons[name] = tidy(status)
    return reasons


def startup_error(lines: list[str]) -> str:
    """Return the server's last error that is not about a model; empty if there is none."""
    for line in reversed(lines):
        if re.match(r"error: creating server: ", line):
            return tidy(line.removeprefix("error: creating server: "))
        if line.startswith("E") and _PREFIX.match(line) and not _NOISE.search(line):
            return tidy(_PREFIX.sub("", line).strip('"'))
    return ""


def tidy(reason: str) -> str:
    """Return a message of the server without status codes, source positions and traceback."""
    reason = re.split(r"\s*\bAt:\s+/", reason, maxsplit=1)[0]
    reason = re.sub(
        r"^(?:(?:Not loaded|UNAVAILABLE|Internal|Invalid argument|Unavailable|Not found|Unsupported"
        r"|TritonModelException|InvalidArg)(?:: | - ))+",
        "",
        reason.strip(),
    )
    reason = re.sub(r"\s+", " ", reason).strip().strip('"')
    return reason if not reason or reason.endswith((".", "!", "?")) else f"{reason}."


def _table(lines: list[str]) -> list[tuple[str, str]]:
    """Return name and status from the last table headed ``Model | Version | Status``."""
    rows: list[tuple[str, str]] = []
    inside = False
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|", 2)]
        if line.startswith("|") and cells == ["Model", "Version", "Status"]:
            rows, inside = [], True
        elif inside and line.startswith("|") and len(cells) == 3:
            if cells[0]:
                rows.append((cells[0], cells[2]))
            elif rows:  # a status continues below an empty name
                rows[-1] = (rows[-1][0], f"{rows[-1][1]} {cells[2]}".rstrip())
        elif inside and line and not _BORDER.match(line):
            inside = False
    return rows
