"""Check whether this machine, this installation and a repository are fit to export and to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from delugeserve.doctor.backends import check_backends
from delugeserve.doctor.extras import check_extras
from delugeserve.doctor.findings import Finding
from delugeserve.doctor.machine import check_machine
from delugeserve.doctor.repository import check_repository
from delugeserve.doctor.server import check_server
from delugeserve.system.progress import NO_PROGRESS, Progress

__all__ = ["Finding", "diagnose"]


def diagnose(repository: Path, progress: Progress = NO_PROGRESS) -> list[Finding]:
    """Check everything, section by section. Nothing is changed, and no server is started.

    Args:
        repository: the model repository; it need not exist.
        progress: receives the stages.

    Returns:
        The findings, in the order of the sections.
    """
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "machine": check_machine,
        "extras": check_extras,
        "backends": check_backends,
        "server": check_server,
        "repository": lambda: check_repository(repository),
    }
    findings: list[Finding] = []
    for name, check in sections.items():
        progress.stage(f"check {name}")
        findings.extend(check())
    return findings
