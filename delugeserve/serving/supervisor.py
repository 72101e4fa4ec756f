"""Serve a model repository for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.served_labels import models_to_serve
from delugeserve.artifacts.serving_config import requests_to_hold
from delugeserve.errors import UsageError
from delugeserve.serving import ports
from delugeserve.serving.fleet.states import Rules
from delugeserve.serving.fleet.supervisor import FleetSettings, Supervisor
from delugeserve.serving.fleet.watch import Watching
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.security import Security
from delugeserve.serving.front.settings import FrontSettings, Limits
from delugeserve.serving.placement import Spread
from delugeserve.serving.private_folder import sweep
from delugeserve.serving.triton.installation import TritonInstallation, find_tritonserver
from delugeserve.serving.triton.launch import Endpoints
from delugeserve.serving.triton.readiness import wait_until_ready
from delugeserve.serving.triton.server import TritonServer, start_tritonserver
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress

_log = logging.getLogger(__name__)


class RunningServer(Protocol):
    """What :func:`serve` yields.

    Attributes:
        host: address it listens on.
        grpc_url: ``host:port`` for gRPC clients on this machine.
        http_url: ``host:port`` for HTTP clients on this machine, or None when HTTP is off.
        metrics_url: address of the Prometheus metrics, or None when they are off.
        models: names of the models it serves.
        endpoints: address and ports it listens on.
    """

    host: str
    grpc_url: str
    http_url: str | None
    metrics_url: str | None
    endpoints: Endpoints

    @property
    def models(self) -> list[str]:
        """See above."""

    def poll(self) -> int | None:
        """Return the exit status of a server that has ended, else None."""

    def watch(self) -> None:
        """Block as long as the server works; raise ServerError when it does not."""

    def log_tail(self, count: int = 12) -> str:
        """Return the last lines of the server's log."""


@contextlib.contextmanager
def serve(
    repository: Path,
    *,
    grpc_port: int = 8001,
    http_port: int | None = 8000,
    metrics_port: int | None = 8002,
    host: str = ports.LOOPBACK,
    metrics_host: str = ports.LOOPBACK,
    models: Sequence[str] | None = None,
    log: Path | None = None,
    tritonserver: Path | None = None,
    startup_timeout: float = 300.0,
    progress: Progress = NO_PROGRESS,
    direct: bool = False,
    active: int = 1,
    standby: int = 1,
    spread: Spread | None = None,
    memory_limit: int | None = None,
    envoy: Path | None = None,
    security: Security | None = None,
    limits: Limits | None = None,
    access_log: Path | None = None,
    tracing: str | None = None,
) -> Iterator[RunningServer]:
    """Serve a model repository until the block ends.

    Inside the block every model has answered a request, and as it did when it was exported. When
    the block ends, also by an error, requests in flight are finished, and all processes, their
    folders and their shared memory are removed. The same happens when this process is killed.

    Unless ``direct`` is set, Envoy stands in front of several servers, and a supervisor replaces
    those that fail. Changes of the repository are followed: a new release is started beside the old
    one, and gets the requests when it has been proved.

    Args:
        repository: model repository.
        grpc_port: port for gRPC; 0 picks a free one.
        http_port: port for HTTP; 0 picks a free one, None turns HTTP off.
        metrics_port: port for Prometheus metrics; 0 picks a free one, None turns them off.
        host: name or address to listen on; IPv4 only if ``direct`` is set.
        metrics_host: name or address for the metrics, which ask nobody for a key; if ``direct`` is
            set, they are at ``host``.
        models: names of the models to serve; None means all.
        log: file to write the server's whole log to, as lines of JSON unless ``direct`` is set.
        tritonserver: the server program; None means the installed one.
        startup_timeout: seconds that loading may take.
        progress: receives the stages of the start.
        direct: run one bare server, which nothing replaces. The arguments below do not apply.
        active: number of servers that share the requests.
        standby: number of servers that step in when all active ones fail.
        spread: give each server a GPU, or the cores of a socket, of its own; those of a server that
            is replaced are free again. None lets all servers use the whole machine.
        memory_limit: bytes that the processes of one server may use together before it is
            replaced; None for no limit.
        envoy: the proxy program; None means the installed one.
        security: TLS and authentication; None for neither.
        limits: limits for requests; None for the defaults.
        access_log: file that gets a line of JSON for each request; None writes none.
        tracing: address of an OpenTelemetry collector; None sends no traces.

    Yields:
        The running server.

    Raises:
        RepositoryError: there is no repository, or no model in it.
        UnknownNameError: one of ``models`` is not in the repository.
        PortError: a port is taken.
        MissingExtraError: no server, no proxy, or no runtime for a model, is installed.
        UsageError: this machine cannot run the server, ``host`` is not one of its addresses, other
            machines could reach it unguarded, the log cannot be written, or there are not several
            GPUs or sockets to spread over.
        ServerError: a model did not load or gives other answers, or the server died.
    """
    progress.stage("start the server")
    if direct:
        with _serve_directly(
            repository,
            Endpoints(ports.resolve_host(host), grpc_port, http_port, metrics_port),
            models,
            log,
            find_tritonserver(tritonserver),
            startup_timeout,
            progress,
        ) as server:
            yield server
        return
    if http_port is not None or metrics_port is not None:
        require("uvicorn", "server")  # of the gateway, which is another process
    address = ports.resolve_host(host, ipv6=True)
    stored = models_to_serve(repository, models)  # an error of the user's before one of the ports'
    settings = FleetSettings(
        repository=repository,
        models=models,
        installation=find_tritonserver(tritonserver),
        envoy=find_envoy(envoy),
        front=FrontSettings(
            address=address,
            grpc_port=grpc_port,
            http_port=http_port,
            gateway_port=None if http_port is None and metrics_port is None else 0,
            security=security or Security(),
            limits=_limit_requests(limits or Limits(), stored, active),
            tracing=tracing,
            access_log=access_log,
        ),
        metrics_port=metrics_port,
        metrics_host=ports.resolve_host(metrics_host, ipv6=True),
        rules=Rules(active=active, standby=standby),
        watching=Watching(memory_limit=memory_limit),
        startup_timeout=startup_timeout,
        spread=spread,
        log=log,
    )
    settings.front.security.check(settings.front.address)
    sweep()
    supervisor = Supervisor(_claim(settings), progress)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()


def _limit_requests(limits: Limits, models: Sequence[StoredModel], active: int) -> Limits:
    """Return limits with which the requests in flight fit the memory of the active servers."""
    largest = max(read_config(model.folder).request_bytes for model in models)
    held = active * requests_to_hold(largest)
    return dataclasses.replace(limits, requests=min(limits.requests, held))


@contextlib.contextmanager
def _serve_directly(
    repository: Path,
    wanted: Endpoints,
    models: Sequence[str] | None,
    log: Path | None,
    installation: TritonInstallation,
    startup_timeout: float,
    progress: Progress,
) -> Iterator[TritonServer]:
    """Run one bare server; the arguments are those of :func:`serve`."""
    stored = models_to_serve(repository, models)
    sweep()
    chosen = ports.claim(
        wanted.address, {"grpc": wanted.grpc, "http": wanted.http, "metrics": wanted.metrics}
    )
    endpoints = Endpoints(wanted.address, chosen["grpc"] or 0, chosen["http"], chosen["metrics"])
    server = start_tritonserver(installation, stored, endpoints, _open_log(log))
    try:
        wait_until_ready(server, startup_timeout, progress)
        _log.debug("%s answers at %s", ", ".join(server.models), server.grpc_url)
        yield server
    finally:
        server.stop()


def _claim(settings: FleetSettings) -> FleetSettings:
    """Return the settings with a free port for each 0."""
    front = settings.front
    chosen = ports.claim(
        front.address,
        {
            "grpc": front.grpc_port,
            "http": front.http_port,
            "metrics": settings.metrics_port,
            "gateway": front.gateway_port,
        },
        {"metrics": settings.metrics_host, "gateway": ports.LOOPBACK},
    )
    return dataclasses.replace(
        settings,
        front=dataclasses.replace(
            front,
            grpc_port=chosen["grpc"] or 0,
            http_port=chosen["http"],
            gateway_port=chosen["gateway"],
        ),
        metrics_port=chosen["metrics"],
    )


def _open_log(path: Path | None) -> TextIO | None:
    try:
        return path.open("w", encoding="utf-8", buffering=1) if path else None
    except OSError as error:
        raise UsageError(
            f"The log '{path}' cannot be written ({error.strerror}).",
            "Give the path of a file in an existing, writable folder.",
        ) from None
