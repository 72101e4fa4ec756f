"""``--wait``: a command returns when the running servers serve what it changed."""

from __future__ import annotations

import time
from pathlib import Path

from delugeserve.cli.render.console import err_console
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import UsageError


def check_wait(repository: Path, *, wait: bool, dry_run: bool = False) -> None:
    """Check ``--wait`` before anything is changed.

    Raises:
        UsageError: it is given with ``--dry-run``, or no server is running.
    """
    if not wait:
        return
    from delugeserve.serving.fleet.settled import require_servers

    if dry_run:
        raise UsageError("--dry-run does not go with --wait.", "Leave one of them out.")
    require_servers(repository)


def wait_for_servers(repository: Path) -> None:
    """Wait until the running servers of a repository serve what it asks for, and say so.

    Raises:
        ServerError: a server goes on without the change, or ended.
    """
    from delugeserve.serving.fleet.settled import wait_until_served

    start = time.monotonic()
    with show_progress() as progress:
        pids = wait_until_served(repository, progress)
    who = "The running server" if len(pids) == 1 else "Each running server"
    processes = ", ".join(map(str, pids))
    err_console.print(
        f"{who} (process {processes}) serves it, after {time.monotonic() - start:.1f} s."
    )
