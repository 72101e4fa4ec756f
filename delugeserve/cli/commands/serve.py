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

from delugeserve.cli.render.console import err_console, out, print_next

if TYPE_CHECKING:
    from delugeserve.serving.tritonserver import TritonServer


class _StopRequested(BaseException):
    """Ctrl-C or SIGTERM: the expected end of this command, not an error."""


def command(
    repository: Annotated[
        Path, typer.Option("--repository", help="Model repository to serve.")
    ] = Path("model_repository"),
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option("--model", help="Serve only this model; may be given again."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, help="Port for gRPC; 0 picks one.")] = 8001,
    http_port: Annotated[int, typer.Option(min=0, help="Port for HTTP; 0 picks one.")] = 8000,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve no HTTP.")] = False,
    metrics_port: Annotated[
        int, typer.Option(min=0, help="Port for Prometheus metrics; 0 picks one.")
    ] = 8002,
    tritonserver: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The server program, where it is not the installed one."),
    ] = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the server's log to this file."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the endpoints as JSON.")] = False,
) -> None:
    """Serve the models of a repository until Ctrl-C or SIGTERM."""
    from delugeserve.serving import ports
    from delugeserve.serving.supervisor import serve

    if not ports.is_loopback(ports.resolve_host(host)):
        _warn_of_exposure(host, http=not no_http)
    _stop_on_signals()
    try:
        with contextlib.ExitStack() as stack:
            with err_console.status("starting the server"):
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
                    )
                )
            _announce(server, json=json)
            server.watch()
    except _StopRequested:
        err_console.print("stopped")


def _announce(server: TritonServer, *, json: bool) -> None:
    endpoints = {
        "grpc": server.grpc_url,
        "http": server.http_url,
        "metrics": server.metrics_url,
        "models": server.models,
    }
    if json:
        # On one line, for a program that reads a line and goes on while the server runs.
        print(json_module.dumps({**endpoints, "pid": os.getpid()}), flush=True)  # noqa: T201
    else:
        for name, value in endpoints.items():
            shown = ", ".join(value) if isinstance(value, list) else value or "off"
            out.print(f"{name:<8} {shown}", highlight=False, markup=False, soft_wrap=True)
    url = "" if server.grpc_url == "127.0.0.1:8001" else f" --url {server.grpc_url}"
    print_next(f"delugeserve classify cat.jpg --model {server.models[0]}{url}")
    err_console.print("[dim]Ctrl-C stops the server.[/]")


def _warn_of_exposure(host: str, *, http: bool) -> None:
    err_console.print(
        f"[yellow]warning:[/] {host} can be reached from other machines, and the server asks "
        "nobody who they are.",
        soft_wrap=True,
    )
    if http:
        err_console.print(
            "[yellow]warning:[/] a malformed HTTP request can crash this server; use --no-http, "
            "or put a guard in front of it.",
            soft_wrap=True,
        )


def _stop_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # Once. A second Ctrl-C ends this process at once, and the guardian stops the server.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        raise _StopRequested

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
