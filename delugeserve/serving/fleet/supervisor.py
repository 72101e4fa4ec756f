"""The supervisor: an event loop that turns what the state machine wants into processes.

It is the only one that starts, proves, routes, drains and stops.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.errors import DelugeServeError
from delugeserve.serving import ports
from delugeserve.serving.fleet import events, report
from delugeserve.serving.fleet.faults import explain_fault
from delugeserve.serving.fleet.follow import Follower
from delugeserve.serving.fleet.frontend import Frontend, FrontendSettings
from delugeserve.serving.fleet.journal import Journal, now_text, records
from delugeserve.serving.fleet.machine import step
from delugeserve.serving.fleet.release import Release, Wish, take_wish
from delugeserve.serving.fleet.replicas import Replicas, ReplicaSettings
from delugeserve.serving.fleet.states import (
    FRONT,
    GATEWAY,
    Canary,
    Fleet,
    Part,
    Phase,
    Routes,
    Rules,
    State,
)
from delugeserve.serving.fleet.status import ServerStatus, StatusFile
from delugeserve.serving.fleet.watch import Watching
from delugeserve.serving.front.settings import FrontSettings, Routing, Upstream
from delugeserve.serving.placement import Spread, find_placements
from delugeserve.serving.triton.installation import TritonInstallation
from delugeserve.serving.triton.launch import Endpoints
from delugeserve.system.progress import NO_PROGRESS, Progress

_log = logging.getLogger(__name__)

_TICK = 0.1  # seconds
_STATUS_INTERVAL = 1.0  # seconds


@dataclass(frozen=True)
class FleetSettings:
    """What a fleet serves, and how.

    Attributes:
        repository: the model repository.
        models: names of the models to serve; None for all.
        installation: the server program.
        envoy: the proxy program.
        front: what the front listens on.
        metrics_port: port of the metrics; None for none.
        metrics_host: address of the metrics.
        rules: how many replicas, and how failures are answered.
        watching: how replicas are watched.
        startup_timeout: seconds that loading may take.
        spread: the parts of the machine that replicas are spread over; None for the whole.
        log: file for events and the processes' logs, as lines of JSON; None for none.
    """

    repository: Path
    models: Sequence[str] | None
    installation: TritonInstallation
    envoy: Path
    front: FrontSettings
    metrics_port: int | None = None
    metrics_host: str = ports.LOOPBACK
    rules: Rules = field(default_factory=Rules)
    watching: Watching = field(default_factory=Watching)
    startup_timeout: float = 300.0
    spread: Spread | None = None
    log: Path | None = None


class Supervisor:
    """A running fleet, and the handle of it.

    Args:
        settings: what it serves, and how.
        progress: receives the stages of the start.

    Raises:
        RepositoryError: there is no repository, or no model in it.
        UnknownNameError: one of the models is not in the repository.
        UsageError: the log or the status cannot be written, or the machine has no such parts.

    Attributes:
        host: address that the front listens on.
        grpc_url: ``host:port`` for gRPC clients on this machine.
        http_url: ``host:port`` for HTTP clients on this machine, or None when HTTP is off.
        metrics_url: address of the Prometheus metrics, or None when they are off.
        endpoints: address and ports that it listens on.
    """

    def __init__(self, settings: FleetSettings, progress: Progress = NO_PROGRESS) -> None:
        front = settings.front
        self.host = front.address
        self.endpoints = Endpoints(
            front.address, front.grpc_port, front.http_port, settings.metrics_port
        )
        reachable = ports.reachable(front.address)
        self.grpc_url = ports.join(reachable, front.grpc_port)
        self.http_url = ports.join(reachable, front.http_port) if front.http_port else None
        metrics = ports.join(ports.reachable(settings.metrics_host), settings.metrics_port or 0)
        self.metrics_url = f"http://{metrics}/metrics" if settings.metrics_port else None
        self.settings, self._progress = settings, progress
        wish = take_wish(settings.repository, settings.models)
        self.releases: dict[str, Release] = {}
        self.journal = Journal(settings.log)
        self._status = StatusFile()
        self._written_at = 0.0
        started = now_text()
        self._base = ServerStatus(
            pid=os.getpid(),
            repository=str(settings.repository.resolve()),
            state="starting",
            started=started,
            updated=started,
            host=self.host,
            grpc=self.grpc_url,
            http=self.http_url,
            metrics=self.metrics_url,
            chosen=None if settings.models is None else tuple(settings.models),
        )
        self._queue: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self.replicas = Replicas(
            ReplicaSettings(
                settings.installation,
                front.http_port is not None,
                settings.rules.active,
                frozenset(
                    {front.grpc_port, front.http_port, front.gateway_port, settings.metrics_port}
                ),
                settings.startup_timeout,
                settings.watching,
                self.journal.stream,
                find_placements(settings.spread),
            ),
            self._queue.put,
        )
        self.frontend = Frontend(
            FrontendSettings(
                settings.envoy,
                front,
                settings.metrics_port,
                settings.metrics_host,
                self._status.path,
                self.journal.stream,
            ),
            self._routing,
            self._queue.put,
        )
        parts = [Part(FRONT)] + [Part(GATEWAY)] * (front.gateway_port is not None)
        self.fleet = Fleet(rules=settings.rules, seed=random.random(), parts=tuple(parts))
        self._follower = Follower(settings.repository, settings.models, self._want)
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._stop_asked = False
        self._loop = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._want(wish, False)

    @property
    def models(self) -> list[str]:
        """Names of the models that are served."""
        release = self.releases.get(self.fleet.current or "")
        return list(release.versions) if release else []

    def start(self) -> None:
        """Start everything; return when it is at full strength.

        Raises:
            DelugeServeError: a replica or the front did not start, or a replica was not proved.
        """
        self._loop.start()
        self._ready.wait()
        if self.fleet.fault:
            self._ended.wait()
            raise self._error()
        self._follower.start()

    def reload(self) -> None:
        """Look at the repository now, and try releases again that failed."""
        self._follower.reload()

    def poll(self) -> int | None:
        """Return 0 for a fleet that was stopped, 1 for one that gave up, None for one that runs."""
        if not self._ended.is_set():
            return None
        return 1 if self.fleet.fault else 0

    def watch(self) -> None:
        """Block until the fleet is stopped.

        Raises:
            ServerError: it gave up.
        """
        while not self._ended.wait(1.0):
            pass
        if self.fleet.fault:
            raise self._error()

    def log_tail(self, count: int = 12) -> str:
        """Return the last lines of the log of a replica that gets requests."""
        active = self.fleet.routes.active or tuple(one.number for one in self.fleet.replicas)
        tail = self.replicas.log_tail(active[0]) if active else ""
        return "\n".join(tail.splitlines()[-count:])

    def stop(self) -> None:
        """Answer every request that was accepted, and end everything."""
        self._follower.stop()
        if self._loop.is_alive():
            self._queue.put(events.StopRequested())
            self._ended.wait()
        self._status.remove()
        self.journal.close()

    def _want(self, wish: Wish, again: bool) -> None:
        canary = None
        for release in (wish.release, wish.canary):
            if release is not None:
                self.releases[release.id] = release
        if wish.canary is not None:
            canary = Canary(wish.canary.id, wish.share)
        self._queue.put(events.Wanted(wish.release.id, canary, again))

    def _run(self) -> None:
        try:
            while self.fleet.phase is not Phase.ENDED:
                try:
                    event = self._queue.get(timeout=_TICK)
                except queue.Empty:
                    event = events.Tick()
                try:
                    self._handle(event)
                except Exception:  # a fault of ours must not end what works
                    _log.exception("The supervisor could not handle %s.", event)
        finally:
            self._ready.set()
            self._ended.set()

    def _handle(self, event: events.Event) -> None:
        before = self.fleet
        self.fleet, actions = step(before, event, time.monotonic())
        for action in actions:
            self._carry_out(action)
        if self.fleet != before:
            self._record(before, event)
        self.frontend.poll()
        for replica in self.fleet.replicas:
            if replica.name in self.frontend.ejected:
                self.replicas.probe(replica.number)
        if self.fleet.full_strength or self.fleet.fault:
            self._ready.set()
        now = time.monotonic()
        if self.fleet != before or now - self._written_at > _STATUS_INTERVAL:
            self._written_at = now
            self._write_status()

    def _record(self, before: Fleet, event: events.Event) -> None:
        names = {key: report.describe(one) for key, one in self.releases.items()}
        for record in records(before, self.fleet, event, names):
            self.journal.add(record)

    def _write_status(self) -> None:
        front = self.frontend.front
        admin = f"{ports.LOOPBACK}:{front.admin_port}" if front else None
        self._status.write(
            report.status(
                self._base,
                self.fleet,
                self.releases,
                self.replicas,
                self.journal,
                admin,
                self.frontend.traffic,
            )
        )

    def _carry_out(self, action: events.Action) -> None:
        match action:
            case events.Start(number, release):
                first = number == 1
                self.replicas.start(
                    number, self.releases[release], self._progress if first else NO_PROGRESS
                )
            case events.Prove(number):
                if number == 1:
                    self._progress.stage("compare its answers with those of the export")
                self.replicas.prove(number)
            case events.Route(routes, number):
                self.frontend.route(routes, number)
            case events.Drain(number):
                self.replicas.drain(number, lambda: self.frontend.in_flight(f"replica-{number}"))
            case events.Kill(number):
                self.replicas.kill(number)
            case events.StartPart(name):
                self.frontend.start(name)
            case events.DrainFront():
                self.frontend.drain()

    def _routing(self, routes: Routes) -> Routing:
        return Routing(
            self._upstreams(routes.active),
            self._upstreams(routes.standby),
            self._upstreams(routes.canary),
            routes.share,
        )

    def _upstreams(self, numbers: Sequence[int]) -> tuple[Upstream, ...]:
        found = []
        for number in numbers:
            endpoints = self.replicas.endpoints(number)
            if endpoints is not None:
                found.append(Upstream(f"replica-{number}", endpoints.grpc, endpoints.http))
        return tuple(found)

    def _error(self) -> DelugeServeError:
        """Return why the fleet gave up."""
        lost = [one for one in self.fleet.replicas if one.state is State.STOPPED]
        tail = self.replicas.log_tail(lost[-1].number) if lost else ""
        errors = [*self.frontend.errors, *self.replicas.errors]
        return explain_fault(self.fleet.fault, errors, tail)
