"""The status of a running server, for tests without one."""

import os
from pathlib import Path

from delugeserve.serving.fleet.status import ServerStatus


def server_status(repository: Path, **facts) -> ServerStatus:
    """What a server of a repository reports; ``facts`` replace the defaults."""
    started = facts.pop("started", "2026-01-01T00:00:00+00:00")
    defaults = {
        "pid": os.getpid(),
        "repository": str(repository.resolve()),
        "state": "serving",
        "started": started,
        "updated": started,
        "host": "127.0.0.1",
        "grpc": "127.0.0.1:8001",
        "http": None,
        "metrics": None,
    }
    return ServerStatus(**{**defaults, **facts})
