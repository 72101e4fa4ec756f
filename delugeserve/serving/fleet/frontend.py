"""Envoy and the gateway of a fleet: started, routed, watched and drained, one step at a time."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from delugeserve.errors import DelugeServeError, ServerError, reason_of
from delugeserve.serving import ports, procfs
from delugeserve.serving.fleet.events import Event, FrontDrained, PartLost, PartStarted, Routed
from delugeserve.serving.fleet.faults import KEPT_ERRORS
from delugeserve.serving.fleet.states import FRONT, GATEWAY, Routes
from delugeserve.serving.fleet.status import Traffic
from delugeserve.serving.fleet.traffic import Counters, read_counters
from delugeserve.serving.front.clusters import CANARY, REPLICAS
from delugeserve.serving.front.config import LoopbackPorts
from delugeserve.serving.front.front import Front, start_front
from delugeserve.serving.front.settings import FrontSettings, Limits, Routing
from delugeserve.serving.gateway.settings import GatewayLimits, GatewaySettings
from delugeserve.serving.guarded import GuardedProcess
from delugeserve.serving.private_folder import PrivateFolder
from delugeserve.system.files import atomic_write

_log = logging.getLogger(__name__)

_GATEWAY_START = 30.0  # seconds
_ROUTE_TIMEOUT = 10.0  # seconds
_LOOK_INTERVAL = 1.0  # seconds between two questions to Envoy
_SILENCE = 3  # questions without an answer, after which Envoy hangs
_POLL = 0.05  # seconds


@dataclass(frozen=True)
class FrontendSettings:
    """How the parts in front of the replicas are run.

    Attributes:
        envoy: the program.
        front: what Envoy listens on, with the gateway's port.
        metrics_port: port of the metrics; None for none.
        metrics_host: address of the metrics.
        status: the supervisor's status file.
        open_log: returns an open file for the log of the part named.
    """

    envoy: Path
    front: FrontSettings
    metrics_port: int | None
    metrics_host: str
    status: Path
    open_log: Callable[[str], TextIO | None] = lambda _name: None


class Frontend:
    """Envoy and the gateway. Methods post their results as events.

    Args:
        settings: how they are run.
        routing: turns numbers of replicas into addresses.
        post: receives the events.
    """

    def __init__(
        self,
        settings: FrontendSettings,
        routing: Callable[[Routes], Routing],
        post: Callable[[Event], None],
    ) -> None:
        self._settings, self._routing, self._post = settings, routing, post
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="front")
        self._front: Front | None = None
        self._gateway: GuardedProcess | None = None
        self._direct: Path | None = None
        self._loopback: LoopbackPorts | None = None
        self._wanted = (Routes(), 0)
        self._looked_at = 0.0
        self._silent = 0
        #: Why parts failed, the newest last.
        self.errors: deque[DelugeServeError] = deque(maxlen=KEPT_ERRORS)
        self._before: dict[str, Counters] | None = None
        #: Requests of the canary and of the others since the canary's first; None without one.
        self.traffic: tuple[Traffic, Traffic] | None = None
        #: Replicas that Envoy sends no requests because too many failed.
        self.ejected: frozenset[str] = frozenset()

    @property
    def front(self) -> Front | None:
        """The running Envoy; None while there is none."""
        return self._front

    @property
    def gateway(self) -> GuardedProcess | None:
        """The running gateway; None while there is none."""
        return self._gateway

    def start(self, part: str) -> None:
        """Start a part; :class:`PartStarted` or :class:`PartLost` follows."""
        start = self._start_front if part == FRONT else self._start_gateway
        self._worker.submit(self._guarded, part, start)

    def route(self, routes: Routes, number: int) -> None:
        """Send requests by these routes; :class:`Routed` follows."""
        self._wanted = (routes, number)
        self._worker.submit(self._guarded, FRONT, lambda: self._route(number))

    def drain(self) -> None:
        """Answer what was accepted, and end both parts; :class:`FrontDrained` follows."""
        self._worker.submit(self._drain)

    def poll(self) -> None:
        """Post :class:`PartLost` for a part that has ended or hangs; returns soon."""
        front, gateway = self._front, self._gateway
        if front is not None and front.poll() is not None:
            error = front.ended()
            self._lose(FRONT, error.problem, error)
        if gateway is not None and gateway.poll() is not None:
            self._lose(GATEWAY, f"The gateway has ended (exit status {gateway.poll()}).")
        for part, process in ((FRONT, front and front.session), (GATEWAY, gateway and gateway.pid)):
            if process and any(map(procfs.is_suspended, procfs.children(process, process))):
                self._lose(part, f"The {part} was suspended by a signal.")
        if front is not None and time.monotonic() - self._looked_at > _LOOK_INTERVAL:
            self._looked_at = time.monotonic()
            self._worker.submit(self._look, front)

    def in_flight(self, replica: str) -> int:
        """Return the number of requests that a replica is answering, as far as Envoy tells."""
        front = self._front
        if front is None:
            return 0
        try:
            return front.requests_in_flight(replica)
        except (OSError, DelugeServeError):
            return 0

    def _start_front(self) -> None:
        settings = self._settings
        routes, number = self._wanted
        # The gateway and whoever reads metrics know the ports of an Envoy that this one replaces.
        front = start_front(
            settings.envoy,
            settings.front,
            self._routing(routes),
            settings.open_log(FRONT),
            self._loopback,
        )
        self._front, self._loopback, self._silent = front, front.loopback, 0
        self._name_replicas(front.routing)
        self._post(PartStarted(FRONT, number))

    def _start_gateway(self) -> None:
        if self._front is None:
            raise ServerError("The gateway waits for Envoy.", "")
        self._run_gateway(self._front)
        self._post(PartStarted(GATEWAY))

    def _run_gateway(self, front: Front) -> None:
        settings = self._settings
        port = settings.front.gateway_port
        if port is None:
            return
        folder = PrivateFolder.create()
        file = folder.path / "settings.json"
        self._direct = folder.path / "replicas.json"
        self._name_replicas(front.routing)
        log = settings.open_log(GATEWAY)
        GatewaySettings(
            grpc=f"{ports.LOOPBACK}:{front.internal_port}",
            port=port,
            metrics_port=settings.metrics_port,
            metrics_host=settings.metrics_host,
            direct=str(self._direct),
            envoy=f"http://{ports.LOOPBACK}:{front.admin_port}/stats/prometheus",
            status=str(settings.status),
            limits=gateway_limits(settings.front.limits),
            access_log=log is not None,
        ).write(file)
        command = [sys.executable, "-m", "delugeserve.serving.gateway", "--settings", str(file)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        gateway = GuardedProcess(command, folder, environment, log)
        deadline = time.monotonic() + _GATEWAY_START
        while not _answers(port):
            if gateway.poll() is not None or time.monotonic() > deadline:
                lines = gateway.finish() if gateway.poll() is not None else gateway.lines()
                gateway.stop()
                raise ServerError(
                    f"The gateway did not start: {' '.join(lines[-1:]) or 'no answer.'}",
                    "Start it again with --log FILE to keep the whole log.",
                    log_tail="\n".join(lines[-12:]),
                )
            time.sleep(_POLL)
        self._gateway = gateway

    def _stop_gateway(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.terminate()
            with contextlib.suppress(TimeoutError):
                gateway.wait(5)
            gateway.stop()

    def _route(self, number: int) -> None:
        routes, newest = self._wanted
        front = self._front
        if front is None or number != newest:  # a start, or a newer route, brings it
            return
        routing = self._routing(routes)
        if routing.canary and self._before is None:
            with contextlib.suppress(OSError):  # its first request counts
                self._before = read_counters(f"{ports.LOOPBACK}:{front.admin_port}")
        try:
            front.route(routing, _ROUTE_TIMEOUT)
        except ServerError:
            if front.poll() is None:
                time.sleep(_POLL)
                self._worker.submit(self._guarded, FRONT, lambda: self._route(number))
            return
        self._name_replicas(routing)
        self._post(Routed(number))

    def _name_replicas(self, routing: Routing) -> None:
        """Tell the gateway which replicas it may ask without Envoy.

        None while there is a canary: Envoy counts its requests and those of the others.
        """
        file = self._direct
        if file is None:
            return
        named = {} if routing.canary else {one.name: one.grpc_address for one in routing.active}
        try:
            with atomic_write(file) as beside:
                beside.write_text(json.dumps(named), encoding="utf-8")
        except OSError:  # there is no gateway, or the disk is full
            with contextlib.suppress(OSError):
                file.unlink()

    def _look(self, front: Front) -> None:
        if front is not self._front:
            return
        try:
            self.ejected = front.ejected()
            self._count_requests(front)
            self._silent = 0
        except OSError:
            self._silent += 1
            if self._silent >= _SILENCE:
                self._lose(FRONT, "Envoy does not answer.")

    def _count_requests(self, front: Front) -> None:
        """Compare the canary's requests with the others, if there is a canary."""
        if not front.routing.canary:
            self._before = self.traffic = None
            return
        now = read_counters(f"{ports.LOOPBACK}:{front.admin_port}")
        if self._before is None:
            self._before = now
        tried, others = (
            now.get(cluster, Counters()).since(self._before.get(cluster, Counters()))
            for cluster in (CANARY, REPLICAS)
        )
        self.traffic = tried, others

    def _lose(self, part: str, reason: str, error: DelugeServeError | None = None) -> None:
        if part == FRONT:
            front, self._front = self._front, None
            if front is None:
                return
            self.errors.append(error or _unwell(reason, front.log_tail()))
            self._worker.submit(_stop_quietly, lambda: front.stop(drain=False))
        else:
            gateway, self._gateway = self._gateway, None
            if gateway is None:
                return
            gateway.terminate()  # what got SIGTERM is killed by stop()
            self._worker.submit(_stop_quietly, gateway.stop)
        self._post(PartLost(part, reason))

    def _drain(self) -> None:
        with contextlib.suppress(Exception):  # the end must come
            if self._front is not None:
                front, self._front = self._front, None
                front.stop(drain=True)
        with contextlib.suppress(Exception):
            self._stop_gateway()
        self._post(FrontDrained())
        self._worker.shutdown(wait=False)

    def _guarded(self, part: str, work: Callable[[], None]) -> None:
        try:
            work()
        except DelugeServeError as error:
            self.errors.append(error)
            self._post(PartLost(part, error.problem))
        except Exception as error:  # the part is lost, the supervisor goes on
            self._post(PartLost(part, f"{type(error).__name__}: {reason_of(error)}"))


def _stop_quietly(stop: Callable[[], None]) -> None:
    """End what failed; that it cannot be ended well changes nothing."""
    try:
        stop()
    except Exception:
        _log.debug("a part of the front did not end well", exc_info=True)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(ports.LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def gateway_limits(limits: Limits) -> GatewayLimits:
    """Return the gateway's limits for those of the front."""
    return GatewayLimits(
        # An image is sent on in a request of its own, which has the front's limit too.
        image_bytes=limits.request_bytes // 2,
        request_bytes=limits.request_bytes,
        buffered_bytes=max(GatewayLimits.buffered_bytes, 4 * limits.request_bytes),
        body_seconds=limits.receive_seconds,
        seconds=limits.answer_seconds,
    )


def _unwell(reason: str, tail: str) -> ServerError:
    """Return the error for an Envoy that runs and does not work."""
    remedy = "Stop other programs that take processor time or memory, or serve fewer models."
    return ServerError(reason, remedy, log_tail=tail)
