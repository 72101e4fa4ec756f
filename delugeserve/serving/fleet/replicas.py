"""The processes behind a fleet's replicas: started, proved, drained and killed in threads."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from delugeserve.errors import DelugeServeError, PortError, ServerError, reason_of
from delugeserve.serving import ports, procfs
from delugeserve.serving.fleet.events import Ended, Event, Loaded, Lost, Proved
from delugeserve.serving.fleet.faults import KEPT_ERRORS
from delugeserve.serving.fleet.proof import prove
from delugeserve.serving.fleet.release import Release
from delugeserve.serving.fleet.watch import ReplicaWatch, Watching, describe_growth
from delugeserve.serving.placement import EVERYWHERE, Placement
from delugeserve.serving.triton.installation import TritonInstallation
from delugeserve.serving.triton.launch import Endpoints
from delugeserve.serving.triton.readiness import wait_until_ready
from delugeserve.serving.triton.server import TritonServer, start_tritonserver
from delugeserve.system.progress import NO_PROGRESS, Progress

_PORT_ATTEMPTS = 5
_IN_FLIGHT_TIMEOUT = 60.0  # seconds that a request may take to leave a replica
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class ReplicaSettings:
    """How replicas are run.

    Attributes:
        installation: the server program.
        http: replicas also listen for HTTP.
        active: number of replicas that answer side by side.
        placements: the parts of the machine that replicas are spread over.
        taken: ports that replicas must not take, although they may be free now.
        startup_timeout: seconds that loading may take.
        watching: how they are watched.
        open_log: returns an open file for the log of the replica named.
    """

    installation: TritonInstallation
    http: bool
    active: int
    taken: frozenset[int | None]
    startup_timeout: float
    watching: Watching
    open_log: Callable[[str], TextIO | None] = lambda _name: None
    placements: Sequence[Placement] = (EVERYWHERE,)

    @property
    def sharing(self) -> int:
        """Number of active replicas that share the cores of a placement."""
        pinned = sum(placement.cores is not None for placement in self.placements)
        return math.ceil(self.active / max(1, pinned))


@dataclass
class _Process:
    release: Release
    placement: Placement
    endpoints: Endpoints | None = None
    server: TritonServer | None = None
    watch: ReplicaWatch | None = None
    killed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Replicas:
    """All replicas of a fleet. Methods return at once, and post their results as events.

    Args:
        settings: how replicas are run.
        post: receives the events.
    """

    def __init__(self, settings: ReplicaSettings, post: Callable[[Event], None]) -> None:
        self._settings, self._post = settings, post
        self._processes: dict[int, _Process] = {}
        self._ports = threading.Lock()
        #: Why replicas failed, the newest last.
        self.errors: deque[DelugeServeError] = deque(maxlen=KEPT_ERRORS)

    def start(self, number: int, release: Release, progress: Progress = NO_PROGRESS) -> None:
        """Start a server; :class:`Loaded` or :class:`Lost` follows."""
        self._processes[number] = _Process(release, self._emptiest())
        self._in_thread(number, lambda: self._start(number, progress))

    def prove(self, number: int) -> None:
        """Prove a replica; :class:`Proved` or :class:`Lost` follows."""
        self._in_thread(number, lambda: self._prove(number))

    def drain(self, number: int, in_flight: Callable[[], int]) -> None:
        """End a replica when it has no requests left; :class:`Ended` follows.

        Args:
            number: the replica's.
            in_flight: returns the number of requests that the front waits for.
        """
        self._in_thread(number, lambda: self._drain(number, in_flight))

    def kill(self, number: int) -> None:
        """End a replica at once; :class:`Ended` follows."""
        self._in_thread(number, lambda: self._kill(number))

    def probe(self, number: int) -> None:
        """Send requests to a replica now, to see whether it works."""
        process = self._processes.get(number)
        if process and process.watch:
            process.watch.probe()

    def endpoints(self, number: int) -> Endpoints | None:
        """Return where a replica listens; None if it has no process."""
        process = self._processes.get(number)
        return process.endpoints if process else None

    def session(self, number: int) -> int | None:
        """Return the number of the session of a replica's processes; None if it has none."""
        process = self._processes.get(number)
        return process.server.session if process and process.server else None

    def pid(self, number: int) -> int | None:
        """Return the number of a replica's tritonserver; None if it has no process."""
        session = self.session(number)
        return next(iter(procfs.children(session, session)), None) if session else None

    def memory(self, number: int) -> int | None:
        """Return the bytes that a replica's processes use together; None if not measured yet."""
        process = self._processes.get(number)
        return process.watch.memory if process and process.watch else None

    def log_tail(self, number: int) -> str:
        """Return the last lines of a replica's log; empty if it has no process."""
        process = self._processes.get(number)
        return process.server.log_tail() if process and process.server else ""

    def _emptiest(self) -> Placement:
        """Return the placement with the fewest replicas, the first of several."""
        used = Counter(process.placement for process in tuple(self._processes.values()))
        return min(self._settings.placements, key=used.__getitem__)

    def _start(self, number: int, progress: Progress) -> None:
        for _ in range(_PORT_ATTEMPTS - 1):
            try:
                self._start_once(number, progress)
                return
            except PortError:
                # A connection that another process opened in the meantime has taken the port.
                server = self._processes[number].server
                if server is not None:
                    server.stop()
        self._start_once(number, progress)

    def _start_once(self, number: int, progress: Progress) -> None:
        settings, process = self._settings, self._processes[number]
        with self._ports:  # so that two replicas are not given the same ports
            wanted = {"grpc": 0, "http": 0 if settings.http else None, "metrics": 0}
            found = ports.claim(ports.LOOPBACK, wanted)
            while settings.taken & set(found.values()) - {None}:
                found = ports.claim(ports.LOOPBACK, wanted)
            endpoints = Endpoints(
                ports.LOOPBACK, found["grpc"] or 0, found["http"], found["metrics"]
            )
            process.endpoints = endpoints
        with process.lock:
            if process.killed:
                return
            process.server = start_tritonserver(
                settings.installation,
                process.release.stored,
                endpoints,
                settings.open_log(f"replica-{number}"),
                process.release.place,
                settings.sharing,
                process.placement,
            )
        wait_until_ready(process.server, settings.startup_timeout, progress)
        self._post(Loaded(number))

    def _prove(self, number: int) -> None:
        process = self._processes[number]
        server = process.server
        if server is None:
            return
        prove(server.grpc_url, process.release)
        limit = self._settings.watching.memory_limit
        used = procfs.memory(server.session)
        if limit and used > limit:
            raise ServerError(
                f"A replica is over its memory limit from the start. "
                f"{describe_growth(used, limit)}",
                "Allow more with --memory-limit, or serve fewer models with --model.",
            )
        with process.lock:
            if process.killed:
                return
            process.watch = ReplicaWatch(
                number, server, process.release, self._settings.watching, self._post
            )
        self._post(Proved(number))

    def _drain(self, number: int, in_flight: Callable[[], int]) -> None:
        process = self._processes.get(number)
        if process and process.server:
            deadline = time.monotonic() + _IN_FLIGHT_TIMEOUT
            while in_flight() and time.monotonic() < deadline:
                time.sleep(_POLL)
            with process.lock:
                if process.watch:
                    process.watch.stop()
            process.server.stop()
        self._forget(number)

    def _kill(self, number: int) -> None:
        process = self._processes.get(number)
        try:
            if process is None:
                return
            with process.lock:
                process.killed = True
                if process.watch:
                    process.watch.stop()
            if process.server:
                process.server.stop(drain=False)
        finally:
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._processes.pop(number, None)
        self._post(Ended(number))

    def _in_thread(self, number: int, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except DelugeServeError as error:
                self.errors.append(error)
                self._post(Lost(number, error.problem))
            except Exception as error:  # the replica is lost, the supervisor goes on
                with contextlib.suppress(Exception):
                    self._post(Lost(number, f"{type(error).__name__}: {reason_of(error)}"))

        threading.Thread(target=run, name=f"replica-{number}", daemon=True).start()
