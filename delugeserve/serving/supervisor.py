"""Serve a model repository for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from delugeserve.artifacts.served_labels import models_to_serve
from delugeserve.errors import UsageError
from delugeserve.serving import ports
from delugeserve.serving.private_folder import sweep
from delugeserve.serving.triton.installation import find_tritonserver
from delugeserve.serving.triton.launch import Endpoints
from delugeserve.serving.triton.readiness import wait_until_ready
from delugeserve.serving.triton.server import TritonServer, start_tritonserver
from delugeserve.system.progress import NO_PROGRESS, Progress

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def serve(
    repository: Path,
    *,
    grpc_port: int = 8001,
    http_port: int | None = 8000,
    metrics_port: int | None = 8002,
    host: str = ports.LOOPBACK,
    models: Sequence[str] | None = None,
    log: Path | None = None,
    tritonserver: Path | None = None,
    startup_timeout: float = 300.0,
    progress: Progress = NO_PROGRESS,
) -> Iterator[TritonServer]:
    """Serve a model repository until the block ends.

    Inside the block every model has answered a request. When the block ends, also by an error,
    requests in flight are finished, and the server, its processes, its folder and its shared memory
    are removed. The same happens when this process is killed.

    Args:
        repository: model repository.
        grpc_port: port for gRPC; 0 picks a free one.
        http_port: port for HTTP; 0 picks a free one, None turns HTTP off.
        metrics_port: port for Prometheus metrics; 0 picks a free one, None turns them off.
        host: name or IPv4 address to listen on.
        models: names of the models to serve; None means all.
        log: file to write the server's whole log to.
        tritonserver: the server program; None means the installed one.
        startup_timeout: seconds that loading may take.
        progress: receives the stages of the start.

    Yields:
        The running server.

    Raises:
        RepositoryError: there is no repository, or no model in it.
        UnknownNameError: one of ``models`` is not in the repository.
        PortError: a port is taken.
        MissingExtraError: no server, or no runtime for a model, is installed.
        UsageError: this machine cannot run the server, ``host`` is not one of its addresses, or the
            log cannot be written.
        ServerError: a model did not load, or the server died.
    """
    progress.stage("start the server")
    stored = models_to_serve(repository, models)
    installation = find_tritonserver(tritonserver)
    sweep()
    address = ports.resolve_host(host)
    chosen = ports.claim(address, {"grpc": grpc_port, "http": http_port, "metrics": metrics_port})
    endpoints = Endpoints(address, chosen["grpc"] or 0, chosen["http"], chosen["metrics"])
    server = start_tritonserver(installation, stored, endpoints, _open_log(log))
    try:
        wait_until_ready(server, startup_timeout, progress)
        _log.debug("%s answers at %s", ", ".join(server.models), server.grpc_url)
        yield server
    finally:
        server.stop()


def _open_log(path: Path | None) -> TextIO | None:
    try:
        return path.open("w", encoding="utf-8", buffering=1) if path else None
    except OSError as error:
        raise UsageError(
            f"The log '{path}' cannot be written ({error.strerror}).",
            "Give the path of a file in an existing, writable folder.",
        ) from None
