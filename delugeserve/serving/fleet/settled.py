"""Waiting until the running servers serve what their repository asks for."""

from __future__ import annotations

import time
from pathlib import Path

from delugeserve.artifacts.repository import repository_option
from delugeserve.errors import ServerError, UsageError
from delugeserve.serving.fleet.release import Wish, take_wish
from delugeserve.serving.fleet.status import ServerStatus, find_servers
from delugeserve.system.progress import NO_PROGRESS, Progress

_INTERVAL = 0.2  # seconds


def require_servers(repository: Path) -> list[ServerStatus]:
    """Return the status of this user's running servers of a repository.

    Raises:
        UsageError: none is running.
    """
    servers = find_servers(repository)
    if not servers:
        raise UsageError(
            f"No server of '{repository}' is running, so there is nothing to wait for.",
            f"Leave --wait out, or start one: delugeserve serve{repository_option(repository)}",
        )
    return servers


def wait_until_served(repository: Path, progress: Progress = NO_PROGRESS) -> list[int]:
    """Wait until every running server of a repository serves what that asks for now.

    That is: requests get the release and the canary of the repository, and no others. Servers that
    are started meanwhile are not waited for.

    Args:
        repository: the model repository.
        progress: is told what is waited for.

    Returns:
        The process numbers of the servers.

    Raises:
        UsageError: no server is running.
        ServerError: a server goes on without the change, because that failed; or it ended.
        RepositoryError: the repository cannot be read.
    """
    pids = [status.pid for status in require_servers(repository)]
    progress.stage(f"wait for the server (process {', '.join(map(str, pids))})")
    for pid in pids:
        while not _is_served(_status_of(repository, pid), repository):
            time.sleep(_INTERVAL)
    return pids


def _status_of(repository: Path, pid: int) -> ServerStatus:
    for status in find_servers(repository):
        if status.pid == pid and status.state != "stopping":
            return status
    raise ServerError(
        f"The server (process {pid}) ended before it served the change.",
        f"Start it again: delugeserve serve{repository_option(repository)}",
    )


def _is_served(status: ServerStatus, repository: Path) -> bool:
    """Return whether a server's requests get what its repository asks for.

    Raises:
        ServerError: they will not, since that failed.
    """
    wish = take_wish(repository, status.chosen)
    _check_not_rejected(status, wish)
    if status.release is None or status.release.id != wish.release.id:
        return False
    if status.pending is not None or not status.routed:
        return False
    tried = [one.release for one in status.replicas if one.state == "canary"]
    if wish.canary is None or wish.canary.id == wish.release.id:
        return not tried
    assigned = status.canary is not None and status.canary.share == wish.share
    return assigned and tried == [wish.canary.id]


def _check_not_rejected(status: ServerStatus, wish: Wish) -> None:
    for what, wanted, rejected in (
        ("change", wish.release, status.rejected),
        ("canary", wish.canary, status.canary_rejected),
    ):
        if wanted and rejected and rejected.release.id == wanted.id:
            raise ServerError(
                f"The server (process {status.pid}) goes on without the {what}: {rejected.reason}",
                "Undo the change, or mend the cause and let the server try again: "
                f"kill -HUP {status.pid}",
            )
