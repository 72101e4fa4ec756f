"""Errors about a server that did not start or did not live, from its exit status and its log."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from delugeserve.artifacts.repository import StoredModel, repository_option
from delugeserve.errors import PortError, ServerError
from delugeserve.serving.guarded import signal_name
from delugeserve.serving.guardian import CANNOT_RUN, SHARED_MEMORY
from delugeserve.serving.ports import in_use
from delugeserve.serving.triton import log

_LESS_MEMORY = "If the machine ran out of memory, serve fewer models at once with --model."
_KEEP_LOG = "Start it again with --log FILE to keep the whole log."
# The Python backend's messages, when a model is loaded and when its first batch is copied.
_SHM = re.compile(r"(?i)shared memory (?:key|pool size)(?:.* Error: (?P<cause>[^.]+))?")
_PORT_TAKEN = re.compile(r"'[\d.]+:(\d+)' already in use")


def explain_exit(status: int | None, lines: list[str]) -> ServerError:
    """Return the error for a server that ended without being asked to.

    Args:
        status: the guardian's exit status, 128 + N for a server that died of signal N.
        lines: the server's log.
    """
    tail = log.tail(lines)
    remedy = _KEEP_LOG
    if signal_name(status) == "SIGKILL":
        remedy = _LESS_MEMORY
    return ServerError(
        f"The server died ({signal_name(status) or f'exit status {status}'}).",
        f"{remedy} {_last_lines(tail)}",
        log_tail=tail,
    )


def explain_dead_model(model: str, lines: list[str]) -> ServerError:
    """Return the error for a model's process that died while the server is still running."""
    tail = log.tail(lines)
    return ServerError(
        f"The process of model '{model}' died.",
        f"{_LESS_MEMORY} {_last_lines(tail)}",
        log_tail=tail,
        reasons={model: "Its process died."},
    )


def explain_failed_start(
    status: int | None,
    lines: list[str],
    models: Sequence[str],
    ports: dict[str, int | None],
    repository: Path,
) -> PortError | ServerError:
    """Return the error for a server that ended before it was ready.

    Args:
        status: the guardian's exit status, 128 + N for a server that died of signal N.
        lines: its log.
        models: names of the models it was to serve.
        ports: port by endpoint.
        repository: the model repository, for the remedy.
    """
    for number in _PORT_TAKEN.findall("\n".join(lines)):
        for endpoint, port in ports.items():
            if port == int(number):
                return in_use(endpoint, port)
    tail = log.tail(lines)
    check = f"delugeserve doctor{repository_option(repository)}"
    reasons = log.failed_models(lines)
    if reasons:
        others = [model for model in models if model not in reasons]
        for reason in reasons.values():
            if found := _SHM.search(reason):
                return _explain_shm(found["cause"] or "", reasons, tail)
        instead = f", or serve only the others: {_only(others)}" if others else ""
        return ServerError(
            " ".join(f"Model '{name}' did not load: {why}" for name, why in reasons.items()),
            f"Check files and configuration with: {check}{instead}",
            log_tail=tail,
            reasons=reasons,
        )
    reason = log.startup_error(lines)
    if reason.startswith(CANNOT_RUN):
        return ServerError(
            reason,
            "Give the path of a server built for this machine with --tritonserver.",
            log_tail=tail,
        )
    if (name := signal_name(status)) and name != "SIGTERM":
        remedy = f"Check files and configuration with: {check}"
        return ServerError(
            f"The server died ({name}) before it was ready.",
            f"{_LESS_MEMORY if name == 'SIGKILL' else remedy}\n{_last_lines(tail)}",
            log_tail=tail,
        )
    return ServerError(
        f"The server did not start: {reason}" if reason else "The server did not start.",
        f"{_KEEP_LOG} {_last_lines(tail)}",
        log_tail=tail,
    )


def explain_no_answer(model: StoredModel, reason: str) -> ServerError:
    """Return the error for a model that was loaded and answers its first request with an error."""
    if found := _SHM.search(reason):
        return _explain_shm(found["cause"] or "", {model.name: reason}, "")
    version = shlex.quote(str(model.folder / str(model.version)))
    check = (
        f"Export '{model.companion_of}' again"
        if model.companion_of
        else f"Check it with: delugeserve verify {version}"
    )
    return ServerError(
        f"Model '{model.name}' loaded, but failed its first request: {reason}",
        f"{check}, and start the server again with --log FILE to keep its log.",
        reasons={model.name: reason},
    )


def explain_timeout(model: str, seconds: float, reason: str) -> ServerError:
    """Return the error for a model that was not ready in time."""
    return ServerError(
        f"Model '{model}' was not ready after {seconds:.0f} seconds. {reason}".rstrip(),
        "Allow more time with --startup-timeout, or serve fewer models at once with --model.",
        reasons={model: reason},
    )


def _explain_shm(cause: str, reasons: Mapping[str, str], tail: str) -> ServerError:
    """Return the error for models that got no shared memory, and the operating system's reason."""
    if cause and "space" not in cause and "memory" not in cause:
        return ServerError(
            f"The shared memory in {SHARED_MEMORY} cannot be used: {cause}.",
            f"Mount it writable for this user; as root: mount -o remount,rw,mode=1777 "
            f"{SHARED_MEMORY}",
            log_tail=tail,
            reasons=reasons,
        )
    free = ""
    with contextlib.suppress(OSError):
        status = os.statvfs(SHARED_MEMORY)
        free = f" ({status.f_bavail * status.f_frsize / 2**20:.1f} MiB free)"
    return ServerError(
        f"The shared memory in {SHARED_MEMORY} is too small for the models{free}: each instance "
        "needs 1 MiB and room for its largest batch.",
        "Serve fewer models (--model) or no standby (--standby 0), or enlarge it: docker run "
        f"--shm-size=1g, or as root: mount -o remount,size=1g {SHARED_MEMORY}",
        log_tail=tail,
        reasons=reasons,
    )


def _only(models: Sequence[str]) -> str:
    return " ".join(f"--model {model}" for model in models)


def _last_lines(tail: str) -> str:
    return f"Last log lines:\n{tail}"
