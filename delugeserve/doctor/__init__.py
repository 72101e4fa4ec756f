"""Whether this machine, this installation and a repository are fit to export and to serve."""

from __future__ import annotations

from pathlib import Path

from delugeserve.doctor.backends import examine_backends
from delugeserve.doctor.extras import examine_extras
from delugeserve.doctor.findings import Finding
from delugeserve.doctor.machine import examine_machine
from delugeserve.doctor.repository import examine_repository
from delugeserve.doctor.server import examine_server

__all__ = ["Finding", "examine"]


def examine(repository: Path) -> list[Finding]:
    """Examine everything, section by section. Nothing is changed, and no server is started.

    Args:
        repository: the model repository; it need not exist.
    """
    return [
        *examine_machine(),
        *examine_extras(),
        *examine_backends(),
        *examine_server(),
        *examine_repository(repository),
    ]
