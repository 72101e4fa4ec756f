"""The status of running servers, in files that other commands find.

Each ``delugeserve serve`` has a folder of its own, readable by its user only, with ``status.json``
and a lock that it holds while it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import UsageError
from delugeserve.serving.fleet.journal import Record
from delugeserve.system.files import atomic_write

FILE_NAME = "status.json"
_LOCK = "lock"


@dataclass(frozen=True)
class Traffic:
    """Requests since the canary's first, as the front has seen them.

    Attributes:
        requests: number of requests.
        errors: number of those that failed.
        p50_ms: median of their durations, in milliseconds; None before the first.
        p99_ms: 99th percentile.
    """

    requests: int
    errors: int
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class ReleaseStatus:
    """A release.

    Attributes:
        id: its id.
        versions: the version of each model.
    """

    id: str
    versions: Mapping[str, int | None]


@dataclass(frozen=True)
class CanaryStatus:
    """A canary.

    Attributes:
        release: what it serves.
        share: its fraction of the requests.
        traffic: its requests; None if they are not known.
        others: the requests of the release that is served; None if they are not known.
    """

    release: ReleaseStatus
    share: float
    traffic: Traffic | None = None
    others: Traffic | None = None


@dataclass(frozen=True)
class RejectedStatus:
    """A release that failed.

    Attributes:
        release: which.
        reason: why.
    """

    release: ReleaseStatus
    reason: str


@dataclass(frozen=True)
class ReplicaStatus:
    """One tritonserver.

    Attributes:
        name: its name.
        state: a :class:`~delugeserve.serving.fleet.states.State`.
        release: id of the release it serves.
        since: UTC, when it entered the state.
        pid: number of the server's process; None while there is none.
        grpc: ``host:port``; None while there is no process.
        http: ``host:port``; None if HTTP is off.
        metrics: address of its Prometheus metrics.
        memory_bytes: memory of its processes together; None until it is measured.
        retiring: why it is to be replaced; empty if it is not.
    """

    name: str
    state: str
    release: str
    since: str
    pid: int | None = None
    grpc: str | None = None
    http: str | None = None
    metrics: str | None = None
    memory_bytes: int | None = None
    retiring: str = ""


@dataclass(frozen=True)
class PartStatus:
    """Envoy or the gateway.

    Attributes:
        name: ``front`` or ``gateway``.
        running: whether it runs.
        starts: how often it was started.
    """

    name: str
    running: bool
    starts: int


@dataclass(frozen=True)
class ServerStatus:
    """One running ``delugeserve serve``.

    Attributes:
        pid: process number of the supervisor.
        repository: absolute path.
        state: ``starting``, ``serving``, ``degraded`` (something is being replaced), ``changing``
            (another release is being started) or ``stopping``.
        started: UTC, when the supervisor started.
        updated: UTC, when this was written.
        host: address it listens on.
        grpc: ``host:port`` for gRPC clients on this machine.
        http: ``host:port`` for HTTP clients on this machine; None if HTTP is off.
        metrics: address of the Prometheus metrics; None if they are off.
        chosen: names of the models it shall serve; None for all.
        models: names of the models that are served.
        release: what is served; None before the first.
        pending: what is being started to replace it.
        rejected: what was not served because it failed.
        canary: what gets a share of the requests.
        canary_rejected: a canary that failed.
        routed: whether Envoy has applied the newest routes.
        replicas: every replica.
        parts: Envoy and the gateway.
        crash_loops: causes of crash loops.
        counters: number of events by kind.
        events: the last events.
        envoy_admin: ``host:port`` of Envoy's statistics; None while there is no Envoy.
    """

    pid: int
    repository: str
    state: str
    started: str
    updated: str
    host: str
    grpc: str
    http: str | None
    metrics: str | None
    chosen: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()
    release: ReleaseStatus | None = None
    pending: ReleaseStatus | None = None
    rejected: RejectedStatus | None = None
    canary: CanaryStatus | None = None
    canary_rejected: RejectedStatus | None = None
    routed: bool = True
    replicas: tuple[ReplicaStatus, ...] = ()
    parts: tuple[PartStatus, ...] = ()
    crash_loops: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    events: tuple[Record, ...] = ()
    envoy_admin: str | None = None


class StatusFile:
    """The folder and the file of this process's server.

    Raises:
        UsageError: the folder cannot be made, or is not this user's alone.

    Attributes:
        path: ``status.json``.
    """

    def __init__(self) -> None:
        import fcntl

        home = runtime_folder()
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(home)
            self._folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home))
            self._lock = (self._folder / _LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(
                f"The folder of running servers, {home}, cannot be written ({error.strerror}).",
                "Set XDG_RUNTIME_DIR to a folder of your own.",
            ) from error
        self.path = self._folder / FILE_NAME
        for _ in find_servers():  # removes what killed servers left
            pass

    def write(self, status: ServerStatus) -> None:
        """Write the status; a full disk leaves the old one."""
        with contextlib.suppress(OSError), atomic_write(self.path) as beside:
            beside.write_text(json.dumps(to_json(status)), encoding="utf-8")

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def runtime_folder() -> Path:
    """Return the folder with the folders of this user's servers."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and os.access(given, os.W_OK | os.X_OK):
        return Path(given) / "delugeserve"
    return Path(tempfile.gettempdir()) / f"delugeserve-servers-{os.getuid()}"


def find_servers(repository: Path | None = None) -> list[ServerStatus]:
    """Return the status of this user's running servers, the oldest first.

    What servers left that were killed is removed.

    Args:
        repository: servers of this repository only; None for all.
    """
    found: list[ServerStatus] = []
    if os.name != "posix":  # where no server runs
        return found
    for folder in _folders():
        if not _is_alive(folder):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with contextlib.suppress(OSError, ValueError):
            text = (folder / FILE_NAME).read_text(encoding="utf-8")
            found.append(from_json(ServerStatus, json.loads(text)))
    if repository is not None:
        wanted = str(repository.resolve())
        found = [status for status in found if status.repository == wanted]
    return sorted(found, key=lambda status: status.started)


def _folders() -> Iterator[Path]:
    home = runtime_folder()
    try:
        _check_owner(home)
        yield from [path for path in home.iterdir() if path.is_dir()]
    except (OSError, UsageError):  # no server has run, or the folder is another user's
        return


def _is_alive(folder: Path) -> bool:
    import fcntl

    try:
        with (folder / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is being made, or removed
        return True
    return False


def _check_owner(home: Path) -> None:
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{home} is not a folder of this user alone.",
            "Remove it, or set XDG_RUNTIME_DIR to a folder of your own.",
        )
