"""A running front: start it, change its routing, drain it, leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from delugeserve.errors import PortError, ServerError
from delugeserve.serving import ports
from delugeserve.serving.front import routes
from delugeserve.serving.front.admin import AdminClient
from delugeserve.serving.front.config import LoopbackPorts, envoy_config
from delugeserve.serving.front.diagnosis import explain_end
from delugeserve.serving.front.routing_files import Assignment, RoutingFiles
from delugeserve.serving.front.settings import FrontSettings, Routing, Upstream
from delugeserve.serving.front.tls import Certificates
from delugeserve.serving.guarded import GuardedProcess
from delugeserve.serving.private_folder import PrivateFolder

_START_SECONDS = 20.0
_DRAIN_SECONDS = 35.0
_POLL = 0.02  # seconds
_SETTLE = 0.05  # seconds until the workers have what the main thread confirmed
_LINGER = 1.0  # seconds without a request, while connections are open
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


def start_front(
    envoy: Path,
    settings: FrontSettings,
    routing: Routing,
    log_file: TextIO | None = None,
    loopback: LoopbackPorts | None = None,
) -> Front:
    """Start Envoy, and wait until it answers on its ports.

    Whoever gets the handle must call :meth:`Front.stop`. If this process is killed, Envoy stops by
    itself.

    Args:
        envoy: the program, as :func:`delugeserve.serving.front.installation.find_envoy` finds it.
        settings: what it listens on.
        routing: where it sends requests.
        log_file: an open file that gets Envoy's log, and is closed at its end.
        loopback: its own ports, those of an Envoy that it replaces; None takes free ones.

    Raises:
        UsageError: its certificates or keys cannot be used, or it would listen for other machines
            without them.
        PortError: a port is taken.
        ServerError: Envoy did not start.
    """
    with contextlib.ExitStack() as on_error:
        if log_file:
            on_error.callback(log_file.close)
        settings.security.check(settings.address)
        if loopback is None:
            own = ports.claim(ports.LOOPBACK, {"grpc": 0, "metrics": 0})
            loopback = LoopbackPorts(own["grpc"] or 0, own["metrics"] or 0)
        folder = PrivateFolder.create()
        on_error.callback(folder.remove)
        front = Front(envoy, settings, routing, loopback, folder, log_file)
        on_error.pop_all()
    with contextlib.ExitStack() as on_error:
        on_error.callback(front.stop, drain=False)
        front.wait_until_started()
        on_error.pop_all()
    return front


class Front:
    """Handle of a running Envoy. Made by :func:`start_front`.

    Attributes:
        settings: what it listens on.
        routing: where it sends requests now.
        loopback: its own ports.
        internal_port: port on 127.0.0.1 where the gateway reaches the replicas over gRPC, without
            authentication.
        admin_port: port on 127.0.0.1 of Envoy's statistics, to read only: ``/stats/prometheus``,
            ``/clusters``.
    """

    def __init__(
        self,
        envoy: Path,
        settings: FrontSettings,
        routing: Routing,
        loopback: LoopbackPorts,
        folder: PrivateFolder,
        log_file: TextIO | None,
    ) -> None:
        self.settings, self.routing, self.loopback = settings, routing, loopback
        self.internal_port, self.admin_port = loopback.internal, loopback.stats
        self._files = RoutingFiles(folder.path, settings)
        self._draining: tuple[Upstream, ...] = ()
        self._files.write_endpoints(_replicas(routing, ()), _canary(routing))
        self._files.write_routes(routing.canary_share)
        self._certificates = Certificates(settings.security, folder.path)
        self._certificates.take()
        # Envoy runs in its folder. A whole path may be longer than a Unix socket's can be.
        socket = Path("admin.sock")
        self._admin = AdminClient(folder.path / socket)
        config = folder.path / "envoy.json"
        config.write_text(
            json.dumps(envoy_config(settings, self._files.source, loopback, socket)),
            encoding="utf-8",
        )
        config.chmod(0o600)
        self._process = GuardedProcess(
            [
                *(str(envoy), "--config-path", str(config)),
                *("--disable-hot-restart", "--concurrency", str(settings.concurrency)),
                *("--log-level", "warning", "--file-flush-interval-msec", "1000"),
            ],
            folder,
            log_file=log_file,
            grace=_GRACE,
        )
        self._certificates.watch()

    def wait_until_started(self) -> None:
        """Wait until Envoy accepts requests.

        Raises:
            PortError: a port is taken.
            ServerError: it did not start.
        """
        if not self._wait(_START_SECONDS, lambda: self._admin.get("/ready").strip() == "LIVE"):
            raise ServerError(
                f"The front has not started after {_START_SECONDS:.0f} seconds.",
                "Start it again when the machine is less busy.",
                log_tail=self.log_tail(),
            )

    def route(self, routing: Routing, timeout: float = 10) -> None:
        """Change where requests go; return when Envoy has applied it.

        New replicas get requests once Envoy's own health check has found them healthy. Replicas
        that are left out get no new requests. Those in flight are finished, and counted by
        :meth:`requests_in_flight`.

        Args:
            routing: where requests go from now on.
            timeout: seconds that this may take.

        Raises:
            ServerError: Envoy ended, or a new replica is not healthy in time. Then nothing changes.
        """
        deadline = time.monotonic() + timeout
        old = self.routing
        draining = self._still_draining(old, routing)
        new = [upstream for upstream in routing.upstreams if upstream not in old.upstreams]
        # New replicas are checked before the old ones go, so that a healthy one is always there.
        self._files.write_endpoints(
            _replicas(old, (*draining, *_without(routing.active + routing.standby, old))),
            _canary(routing if routing.canary else old),
        )
        try:
            self._confirm(deadline)
            self._wait_until_healthy(new, deadline)
        except ServerError:
            self._files.write_endpoints(_replicas(old, draining), _canary(old))
            raise
        self._draining = (*draining, *_without(old.upstreams, routing))
        self._files.write_endpoints(
            _replicas(routing, self._draining), _canary(routing if routing.canary else old)
        )
        self._files.write_routes(routing.canary_share if routing.canary else 0.0)
        self.routing = routing
        self._confirm(deadline)
        if not routing.canary and old.canary:
            self._files.write_endpoints(_replicas(routing, self._draining), _canary(routing))
            self._confirm(deadline)
        time.sleep(_SETTLE)

    def ejected(self) -> frozenset[str]:
        """Return the names of the replicas that get no requests because too many failed."""
        return self._with_status("failed_outlier_check")

    def unhealthy(self) -> frozenset[str]:
        """Return the names of the replicas that fail Envoy's health check."""
        return self._with_status("failed_active_health_check")

    def requests_in_flight(self, upstream: str) -> int:
        """Return the number of requests that a replica is answering; 0 for an unknown name."""
        found = [one for one in (*self.routing.upstreams, *self._draining) if one.name == upstream]
        ports_of = {port for one in found for port in (one.grpc_port, one.http_port)}
        return sum(
            _statistic(host, "rq_active") for host in self._hosts() if _port(host) in ports_of
        )

    @property
    def session(self) -> int:
        """Number of the session of its processes, which is that of the guardian's process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status of an Envoy that has ended, else None."""
        return self._process.poll()

    def log_tail(self, count: int = 12) -> str:
        """Return the last lines of Envoy's log."""
        return "\n".join(self._process.lines()[-count:])

    def stop(self, *, drain: bool = True) -> None:
        """End Envoy.

        Args:
            drain: answer the requests that it has accepted first.
        """
        try:
            if not drain:
                self._process.terminate()  # what got SIGTERM is killed by stop()
            elif self.poll() is None:
                with contextlib.suppress(OSError):
                    self._drain()
        finally:
            self._certificates.stop()
            self._process.stop()

    def _drain(self) -> None:
        self._admin.post("/healthcheck/fail")  # answers tell clients to connect again elsewhere
        self._admin.post("/drain_listeners?inboundonly")
        last_request = time.monotonic()

        def drained() -> bool:
            nonlocal last_request
            requests = self._downstream("rq", routes.GRPC, routes.HTTP, routes.INTERNAL)
            connections = self._downstream("cx", routes.GRPC, routes.HTTP)
            now = time.monotonic()
            if requests:
                last_request = now
            # A request that has just arrived may not be counted yet.
            return now - last_request >= (_LINGER if connections else _SETTLE)

        self._wait(_DRAIN_SECONDS, drained)

    def _downstream(self, what: str, *listeners: str) -> int:
        """Return the number of requests (``rq``) or connections (``cx``) of some listeners."""
        found = self._admin.get_json(f"/stats?format=json&filter=downstream_{what}_active$")
        wanted = {f"http.{listener}.downstream_{what}_active" for listener in listeners}
        return sum(one["value"] for one in found["stats"] if one.get("name") in wanted)

    def _confirm(self, deadline: float) -> None:
        """Wait until Envoy's main thread has read every file."""
        versions = self._files.versions

        def applied() -> bool:
            found = self._admin.get_json(
                "/stats?format=json&type=TextReadouts&filter=version_text$"
            )
            shown = {one["name"]: one["value"] for one in found["stats"] if "value" in one}
            return all(
                shown.get(f"{prefix}.version_text") == version
                for prefix, version in versions.items()
            )

        if not self._wait(deadline - time.monotonic(), applied):
            raise ServerError(
                "The front has not read its new routing in time.",
                "Start the server again.",
                log_tail=self.log_tail(),
            )

    def _wait_until_healthy(self, upstreams: list[Upstream], deadline: float) -> None:
        wanted = {one.grpc_port: one.name for one in upstreams}
        unhealthy: set[str] = set()

        def healthy() -> bool:
            unhealthy.clear()
            for host in self._hosts():
                status = host["health_status"]
                if _port(host) in wanted and (
                    status.get("failed_active_health_check") or status.get("pending_active_hc")
                ):
                    unhealthy.add(wanted[_port(host)])
            return not unhealthy

        if not self._wait(deadline - time.monotonic(), healthy):
            raise ServerError(
                f"The front's health check fails for {', '.join(sorted(unhealthy))}.",
                "Look in the server's log for the reason.",
                log_tail=self.log_tail(),
            )

    def _still_draining(self, old: Routing, new: Routing) -> tuple[Upstream, ...]:
        """Return the replicas left out earlier that still answer requests."""
        taken = {
            port
            for one in (*old.upstreams, *new.upstreams)
            for port in (one.grpc_port, one.http_port)
        }
        return tuple(
            one
            for one in self._draining
            if not taken & {one.grpc_port, one.http_port} - {None}
            and self.requests_in_flight(one.name)
        )

    def _with_status(self, status: str) -> frozenset[str]:
        """Return the names of the replicas whose gRPC or HTTP endpoint has a status."""
        marked = {_port(host) for host in self._hosts() if host["health_status"].get(status)}
        return frozenset(
            one.name for one in self.routing.upstreams if marked & {one.grpc_port, one.http_port}
        )

    def _hosts(self) -> list[dict[str, Any]]:
        found = self._admin.get_json("/clusters?format=json")
        return [
            host
            for cluster in found["cluster_statuses"]
            if cluster["name"].split("-")[0] in ("replicas", "canary")
            for host in cluster.get("host_statuses", ())
        ]

    def _wait(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, which an Envoy that does not answer fails."""
        deadline = time.monotonic() + seconds
        while True:
            if self.poll() is not None:
                self._process.finish()
                raise self.ended()
            with contextlib.suppress(OSError):
                if condition():
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)

    def ended(self) -> PortError | ServerError:
        """Return the error for an Envoy that has ended without being asked to."""
        wanted = {"grpc": self.settings.grpc_port, "http": self.settings.http_port}
        return explain_end(self.poll(), self._process.lines(), wanted)


def _replicas(routing: Routing, idle: Sequence[Upstream]) -> Assignment:
    return Assignment((routing.active, routing.standby), idle)


def _canary(routing: Routing) -> Assignment:
    """Return the canary; if it fails, its requests go to the others."""
    if not routing.canary:
        return Assignment(())
    return Assignment((routing.canary, routing.active, routing.standby))


def _without(upstreams: Sequence[Upstream], routing: Routing) -> tuple[Upstream, ...]:
    return tuple(one for one in upstreams if one not in routing.upstreams)


def _port(host: dict[str, Any]) -> int:
    port: int = host["address"]["socket_address"]["port_value"]
    return port


def _statistic(host: dict[str, Any], name: str) -> int:
    for one in host["stats"]:
        if one["name"] == name:
            return int(one.get("value", 0))
    return 0
