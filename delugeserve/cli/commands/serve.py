"""``delugeserve serve``: the models of a repository behind a real Triton Inference Server."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from delugeserve.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Repository, check_output_file
from delugeserve.cli.render.console import err_console, out, print_next, print_warning
from delugeserve.cli.render.progress import show_progress

if TYPE_CHECKING:
    from delugeserve.serving.tritonserver import TritonServer

_MAX_PORT = 65535


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
            help="Serve only this model. May be repeated. Default: all models.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="IPv4 address or name to listen on; 0.0.0.0 for all addresses.")
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
        typer.Option(metavar="PATH", help="Server program to run instead of the installed one."),
    ] = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the server's log to this file."),
    ] = None,
    startup_timeout: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="How long the models may take to load."),
    ] = 300.0,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the endpoints as one line of JSON, once all is ready."),
    ] = False,
) -> None:
    """Serve the models of a repository until Ctrl-C or SIGTERM."""
    from delugeserve.serving import ports
    from delugeserve.serving.supervisor import serve

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
            _announce(server, json=json)
            _watch(server)
    except _StopRequested:
        err_console.print("Server stopped.")


def _watch(server: TritonServer) -> None:
    try:
        server.watch()
    except _StopRequested:
        err_console.print("Stopping the server: requests in flight are answered first.")
        raise


def _announce(server: TritonServer, *, json: bool) -> None:
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
        _print_fact("grpc", f"{server.host}:{listening.grpc}")
        _print_fact("http", f"{server.host}:{listening.http}" if listening.http else "off")
        metrics = (
            f"http://{server.host}:{listening.metrics}/metrics" if listening.metrics else "off"
        )
        _print_fact("metrics", metrics)
        _print_fact("models", ", ".join(server.models))
    default = DEFAULT_URL.replace("localhost", "127.0.0.1")
    url = "" if server.grpc_url == default else f" --url {server.grpc_url}"
    print_next(f"delugeserve classify cat.jpg --model {server.models[0]}{url}")
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
