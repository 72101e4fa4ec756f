"""``delugeserve serve``: the models of a repository behind a real Triton Inference Server."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from delugeserve.cli.launcher import DryRun, Image, LauncherOption, print_container_command
from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DEFAULT_URL,
    Repository,
    check_output_file,
    with_default,
)
from delugeserve.cli.render.console import err_console, out, print_next, print_warning
from delugeserve.cli.render.progress import show_progress

if TYPE_CHECKING:
    from delugeserve.serving.triton.server import TritonServer

_MAX_PORT = 65535
_ORDER = {True: 0, None: 1, False: 2}  # of models to try: trained, unknown, untrained


class _StopRequested(BaseException):
    """Ctrl-C or SIGTERM: the expected end of this command, not an error."""


def _complete_model(context: typer.Context, incomplete: str) -> list[str]:
    from delugeserve.artifacts.repository import list_names
    from delugeserve.errors import RepositoryError

    repository = context.params.get("repository") or DEFAULT_REPOSITORY
    try:
        return [name for name in list_names(Path(repository)) if name.startswith(incomplete)]
    except RepositoryError:
        return []


def command(
    repository: Repository = DEFAULT_REPOSITORY,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=_complete_model,
            help=with_default("Serve this model only; can be given several times.", "all models"),
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="IPv4 address or host name to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    grpc_port: Annotated[
        int, typer.Option(min=0, max=_MAX_PORT, help="Port for gRPC; 0 picks a free one.")
    ] = 8001,
    http_port: Annotated[
        int, typer.Option(min=0, max=_MAX_PORT, help="Port for HTTP; 0 picks a free one.")
    ] = 8000,
    no_http: Annotated[bool, typer.Option("--no-http", help="Do not serve HTTP.")] = False,
    metrics_port: Annotated[
        int,
        typer.Option(min=0, max=_MAX_PORT, help="Port for Prometheus metrics; 0 picks a free one."),
    ] = 8002,
    tritonserver: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="tritonserver to run instead of the installed one."),
    ] = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Keep the server's log in this file. Otherwise its end is shown on an error only.",
        ),
    ] = None,
    startup_timeout: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="Time limit for loading the models."),
    ] = 300,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the endpoints as one line of JSON, once ready."),
    ] = False,
    launcher: LauncherOption = None,
    image: Image = None,
    dry_run: DryRun = False,
) -> None:
    """Serve the models of a repository with Triton until Ctrl-C or SIGTERM."""
    from delugeserve.serving import ports
    from delugeserve.serving.supervisor import serve

    if launcher or image or dry_run:
        print_container_command(
            launcher,
            repository,
            model,
            host=host,
            ports={
                "grpc": grpc_port,
                "http": None if no_http else http_port,
                "metrics": metrics_port,
            },
            image=image,
            dry_run=dry_run,
            json=json,
        )
        return
    if log:
        check_output_file(log)
    if not ports.is_loopback(ports.resolve_host(host)):
        _warn_of_exposure(host, http=not no_http)
    _stop_on_signals()
    try:
        with contextlib.ExitStack() as stack:
            with show_progress() as progress:
                server = stack.enter_context(
                    serve(
                        repository,
                        grpc_port=grpc_port,
                        http_port=None if no_http else http_port,
                        metrics_port=metrics_port,
                        host=host,
                        models=model,
                        log=log,
                        tritonserver=tritonserver,
                        startup_timeout=startup_timeout,
                        progress=progress,
                    )
                )
            _announce(server, _trained(repository, server.models), json=json)
            _watch(server)
    except _StopRequested:
        err_console.print("Server stopped.")


def _watch(server: TritonServer) -> None:
    try:
        server.watch()
    except _StopRequested:
        err_console.print("Stopping the server: requests in flight are answered first.")
        raise


def _trained(repository: Path, models: Sequence[str]) -> dict[str, bool | None]:
    """Return whether each served model is trained; None if its manifest does not tell."""
    from delugeserve.artifacts.manifest import find_manifest
    from delugeserve.artifacts.repository import find_models

    manifests = {
        stored.name: find_manifest(stored.folder, stored.version)
        for stored in find_models(repository, models)
    }
    return {name: found.trained if found else None for name, found in manifests.items()}


def _announce(server: TritonServer, trained: dict[str, bool | None], *, json: bool) -> None:
    """Print the endpoints, the models and the next command, for a trained model if there is one.

    Args:
        server: the running server.
        trained: whether each model is trained; None where that is not known.
        json: print the endpoints as JSON.
    """
    if json:
        # On one line, for a program that reads a line and goes on while the server runs.
        ready = {
            "grpc": server.grpc_url,
            "http": server.http_url,
            "metrics": server.metrics_url,
            "models": server.models,
            "host": server.host,
            "pid": os.getpid(),
        }
        print(json_module.dumps(ready), flush=True)  # noqa: T201
    else:
        listening = server.endpoints
        _print_fact("gRPC", f"{server.host}:{listening.grpc}")
        _print_fact("HTTP", f"http://{server.host}:{listening.http}" if listening.http else "off")
        metrics = (
            f"http://{server.host}:{listening.metrics}/metrics" if listening.metrics else "off"
        )
        _print_fact("metrics", metrics)
        _print_fact(
            "models",
            ", ".join(
                f"{name} (untrained)" if trained.get(name) is False else name
                for name in server.models
            ),
        )
    default = DEFAULT_URL.replace("localhost", "127.0.0.1")
    url = "" if server.grpc_url == default else f" --url {server.grpc_url}"
    suggested = min(server.models, key=lambda name: _ORDER[trained.get(name)])
    print_next(f"delugeserve classify IMAGE.jpg --model {suggested}{url}")
    err_console.print("[dim]Press Ctrl-C to stop the server.[/]")


def _print_fact(name: str, value: str) -> None:
    out.print(f"{name:<8} {value}", markup=False)


def _warn_of_exposure(host: str, *, http: bool) -> None:
    print_warning(
        f"The server listens on {host}: other machines can reach it, and it does not authenticate "
        "clients."
    )
    if http:
        print_warning(
            "A malformed HTTP request can crash this server: use --no-http, or put a proxy that "
            "checks requests in front of it."
        )


def _stop_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # A second Ctrl-C ends this process at once, and the guardian stops the server.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        raise _StopRequested

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
