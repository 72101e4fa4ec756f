"""``delugeserve serve``: the models of a repository behind a real Triton Inference Server."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from delugeserve.cli.launcher import DryRun, Image, LauncherOption, print_container_command
from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    Repository,
    check_output_file,
    with_default,
)
from delugeserve.cli.render.console import err_console
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.serving import announce, find_trained, warn_of_exposure
from delugeserve.cli.serving_options import FrontOptions, with_front_options
from delugeserve.errors import UsageError

if TYPE_CHECKING:
    from delugeserve.serving.supervisor import RunningServer

_MAX_PORT = 65535
_MIB = 1 << 20


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


@with_front_options
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
        str, typer.Option(help="Address or host name to listen on; 0.0.0.0 or :: for all.")
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
    metrics_host: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="HOST",
            help=with_default(
                "Address for the metrics, which need no key; 0.0.0.0 or :: for all.", "127.0.0.1"
            ),
            show_default=False,
        ),
    ] = None,
    active: Annotated[
        int, typer.Option(min=1, metavar="N", help="Servers that share the requests.")
    ] = 1,
    standby: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Servers that step in when all active ones fail."),
    ] = 1,
    spread: Annotated[
        Optional[Literal["gpus", "sockets"]],  # noqa: UP045
        typer.Option(
            help=with_default(
                "Run each server on one GPU, or on the cores of one processor socket, in turn; for "
                "--active 2 and more.",
                "all of the machine",
            ),
            show_default=False,
        ),
    ] = None,
    memory_limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="MIB",
            help=with_default("Replace a server that uses more memory than this.", "no limit"),
            show_default=False,
        ),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Run one bare server: nothing in front of it, and nothing replaces it.",
        ),
    ] = False,
    envoy: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="Envoy to run instead of the installed one."),
    ] = None,
    tritonserver: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="tritonserver to run instead of the installed one."),
    ] = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Keep all logs in this file, as lines of JSON unless --direct is given.",
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
    *,
    front: FrontOptions,
) -> None:
    """Serve the models of a repository with Triton until Ctrl-C or SIGTERM.

    A supervisor runs an active and a standby server behind Envoy. It replaces servers that fail,
    and follows the repository: a new version gets the requests when it has been proved.
    """
    from delugeserve.serving import ports
    from delugeserve.serving.fleet.supervisor import Supervisor
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
            security=front.security,
            dry_run=dry_run,
            json=json,
        )
        return
    if log:
        check_output_file(log)
    if direct:
        address = ports.resolve_host(host)
        _check_direct(front, metrics_host, address, several=active > 1 or spread is not None)
        if not ports.is_loopback(address):
            warn_of_exposure(host, http=not no_http)
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
                        metrics_host=metrics_host or ports.LOOPBACK,
                        models=model,
                        log=log,
                        tritonserver=tritonserver,
                        startup_timeout=startup_timeout,
                        progress=progress,
                        direct=direct,
                        active=active,
                        standby=standby,
                        spread=spread,
                        memory_limit=memory_limit * _MIB if memory_limit else None,
                        envoy=envoy,
                        security=front.security,
                        limits=front.limits,
                        access_log=front.access_log,
                        tracing=front.tracing,
                    )
                )
            trained = find_trained(repository, server.models)
            tls = front.security.certificate is not None
            announce(server, trained, tls=tls, direct=direct, json=json)
            if isinstance(server, Supervisor):
                signal.signal(signal.SIGHUP, lambda *_: server.reload())
            _watch(server)
    except _StopRequested:
        err_console.print("Server stopped.")


def _watch(server: RunningServer) -> None:
    try:
        server.watch()
    except _StopRequested:
        err_console.print("Stopping the server: requests in flight are answered first.")
        raise


def _check_direct(
    front: FrontOptions, metrics_host: str | None, address: str, *, several: bool
) -> None:
    """Raise a UsageError if a bare server cannot be what the options ask for."""
    from delugeserve.serving import ports

    if several:
        raise UsageError(
            "--direct runs one server, on the whole machine.",
            "Leave out --direct, or --active and --spread.",
        )
    unguarded = dataclasses.replace(front.security, insecure=False)
    if unguarded != type(unguarded)() or front.access_log or front.tracing:
        raise UsageError(
            "A bare server has neither TLS nor authentication, logs no requests and sends no "
            "traces.",
            "Leave out --direct, or these options.",
        )
    if not (ports.is_loopback(address) or front.security.insecure):
        raise UsageError(
            f"Other machines can reach {address}, and a bare server does not know its clients.",
            "Leave out --direct; or use --insecure, if everybody who reaches this address may use "
            "the server.",
        )
    if metrics_host:
        raise UsageError(
            "The metrics of a bare server are at the address of --host.",
            "Leave out --metrics-host, or --direct.",
        )


def _stop_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # A second Ctrl-C ends this process at once, and the guardian stops the server.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        raise _StopRequested

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
