"""Explain why Envoy ended, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from delugeserve.errors import PortError, ServerError
from delugeserve.serving import ports
from delugeserve.serving.guarded import signal_name

# Such as: [2026-11-28 09:00:00.000][1234][critical][main] [source/server/server.cc:1] message
_SERIOUS = re.compile(r"\]\[(?:critical|error)\]\[[^]]*\] (?:\[[^]]*\] )?(?P<message>.+)")


def explain_end(
    status: int | None, lines: Sequence[str], wanted: Mapping[str, int | None]
) -> PortError | ServerError:
    """Return the error for an Envoy that ended without being asked to.

    Args:
        status: its guardian's exit status, 128 + N if it died of signal N.
        lines: the last lines of its log.
        wanted: the ports that it was to listen on, by endpoint.
    """
    refused = "".join(line for line in lines if "cannot bind" in line)
    for endpoint, port in wanted.items():
        if port is not None and re.search(rf":{port}\b", refused):
            return ports.in_use(endpoint, port)
    tail = "\n".join(lines[-12:])
    name = signal_name(status)
    if name == "SIGKILL":
        return ServerError(
            "Envoy was killed, as the kernel does when memory is short.",
            "Give the machine or the container more memory, or serve fewer models with --model.",
            log_tail=tail,
        )
    found = next(filter(None, map(_SERIOUS.search, reversed(lines))), None)
    reason = f": {found['message'].strip(' .')}" if found else ""
    return ServerError(
        f"Envoy ended ({name or f'exit status {status}'}){reason}.",
        "If --envoy names another Envoy, leave it out; otherwise report this with a log "
        "(--log FILE) as a bug.",
        log_tail=tail,
    )
