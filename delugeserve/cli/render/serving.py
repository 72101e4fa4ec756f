"""What ``serve`` prints when it is ready, and the warnings before."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from delugeserve.cli.options import DEFAULT_URL
from delugeserve.cli.render.console import err_console, out, print_next, print_warning

if TYPE_CHECKING:
    from delugeserve.serving.supervisor import RunningServer

_ORDER = {True: 0, None: 1, False: 2}  # of models to try: trained, unknown, untrained


def find_trained(repository: Path, models: Sequence[str]) -> dict[str, bool | None]:
    """Return whether each served model is trained; None if its manifest does not tell."""
    from delugeserve.artifacts.manifest import find_manifest
    from delugeserve.artifacts.repository import find_models

    manifests = {
        stored.name: find_manifest(stored.folder, stored.version)
        for stored in find_models(repository, models)
    }
    return {name: found.trained if found else None for name, found in manifests.items()}


def announce(
    server: RunningServer,
    trained: Mapping[str, bool | None],
    *,
    tls: bool = False,
    direct: bool = False,
    json: bool = False,
) -> None:
    """Print the endpoints, the models and the next command, for a trained model if there is one.

    Args:
        server: the running server.
        trained: whether each model is trained; None where that is not known.
        tls: gRPC and HTTP are served over TLS.
        direct: it is a bare server, which has no ``/classify``.
        json: print the endpoints as JSON.
    """
    scheme = "https" if tls else "http"
    classify = f"{scheme}://{server.http_url}/classify" if server.http_url and not direct else None
    if json:
        # On one line, for a program that reads a line and goes on while the server runs.
        ready = {
            "grpc": server.grpc_url,
            "http": server.http_url,
            "classify": classify,
            "metrics": server.metrics_url,
            "tls": tls,
            "models": server.models,
            "host": server.host,
            "pid": os.getpid(),
        }
        print(json_module.dumps(ready), flush=True)  # noqa: T201
    else:
        _print_endpoints(server, trained, classify, tls=tls)
    default = DEFAULT_URL.replace("localhost", "127.0.0.1")
    address = f"grpcs://{server.grpc_url}" if tls else server.grpc_url
    url = "" if address == default else f" --url {address}"
    suggested = min(server.models, key=lambda name: _ORDER[trained.get(name)])
    print_next(f"delugeserve classify IMAGE.jpg --model {suggested}{url}")
    err_console.print("[dim]Press Ctrl-C to stop the server.[/]")


def warn_of_exposure(host: str, *, http: bool) -> None:
    """Warn that other machines can reach a bare server."""
    print_warning(
        f"The server listens on {host}: other machines can reach it, and it does not authenticate "
        "clients."
    )
    if http:
        print_warning(
            "A malformed HTTP request can crash this server: use --no-http, or leave out --direct."
        )


def _print_endpoints(
    server: RunningServer, trained: Mapping[str, bool | None], classify: str | None, *, tls: bool
) -> None:
    from delugeserve.serving import ports

    listening = server.endpoints
    hosts = ports.machine_addresses(server.host) or (server.host,)
    grpc = "grpcs://" if tls else ""
    _print_fact("gRPC", " ".join(f"{grpc}{ports.join(host, listening.grpc)}" for host in hosts))
    http, scheme = listening.http, "https" if tls else "http"
    urls = " ".join(f"{scheme}://{ports.join(host, http)}" for host in hosts) if http else "off"
    _print_fact("HTTP", urls)
    if classify:
        _print_fact("pictures", classify)
    _print_fact("metrics", server.metrics_url or "off")
    names = [
        f"{name} (untrained)" if trained.get(name) is False else name for name in server.models
    ]
    _print_fact("models", ", ".join(names))


def _print_fact(name: str, value: str) -> None:
    out.print(f"{name:<8} {value}", markup=False)
