"""Find in a server's log why the server did not start."""

from __future__ import annotations

import re

# The server's own log lines: severity, date, time, thread, source file and line.
_PREFIX = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] +")
_BORDER = re.compile(r"^\+[-+]+\+$")
_REFUSED = re.compile(
    r"(?:Poll failed for model directory|failed to load model) '([^']+)': (.*?)\"?$"
)
# Written at every start on a machine without a GPU.
_NOISE = re.compile(r"NVML|CudaDriverHelper|DCGM|pinned_memory_manager|chttp2_server")


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
    # A failed warm-up gives the same reason once for each of its requests.
    reason = "; ".join(dict.fromkeys(reason.rstrip("; ").split("; ")))
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
