"""The command line: one file per command in :mod:`delugeserve.cli.commands`.

Standard output is data, standard error is messages. Exit status: 0 for success, 1 for work that
failed, 2 for a mistake the user can fix, 130 for Ctrl-C, 143 for SIGTERM. ``serve`` ends with 0
on both.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from delugeserve._version import __version__
from delugeserve.cli.commands import (
    ablation,
    benchmark,
    benchmark_engines,
    classify,
    configure,
    connectivity,
    data,
    doctor,
    evaluate,
    export,
    gc,
    inspect,
    keys,
    models,
    profile,
    promote,
    quickstart,
    remove,
    rollback,
    runs,
    serve,
    status,
    train,
    tune,
    verify,
    versions,
)
from delugeserve.cli.render.console import (
    ClosedPipe,
    print_error,
    start_logging,
    unwritable_output,
)
from delugeserve.cli.usage import Command, Group, run
from delugeserve.errors import DelugeServeError, reason_of
from delugeserve_client.errors import ClientError

_EPILOG = (
    "Example: delugeserve export --model delugenet38\n\n"
    "Exit status: 0 success; 1 the work failed; 2 a mistake that you can fix; 130 Ctrl-C; "
    "143 SIGTERM; 'serve' ends with 0 on both.\n\n"
    "Environment: DELUGESERVE_DATA is the default for --data.\n\n"
    "DelugeNets: Kuen et al., https://arxiv.org/abs/1611.05552"
)

app = typer.Typer(
    name="delugeserve",
    cls=Group,
    help="Train, export and serve DelugeNet image classifiers with Triton Inference Server.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_debug = False

_PIPE_CLOSED = 141
"""What a shell reports of a program that SIGPIPE ended."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug messages.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show results, warnings and errors only.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    global _debug
    _debug = debug
    start_logging("DEBUG" if debug else "WARNING" if quiet else "INFO")


_PANELS = {
    "Start here": (quickstart, doctor, models),
    "Train and evaluate": (data, train, runs, evaluate),
    "Export": (export, verify, inspect, benchmark_engines),
    "Versions": (versions, promote, rollback, configure, remove, gc),
    "Serve": (serve, status, keys, classify, benchmark, tune),
    "Experiments of the paper": (ablation, connectivity, profile),
}

for _panel, _modules in _PANELS.items():
    for _module in _modules:
        _name = _module.__name__.rpartition(".")[2].replace("_", "-")
        app.command(_name, cls=Command, rich_help_panel=_panel)(_module.command)


def main() -> None:
    """Run the command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):  # an encoding that lacks a character is no failure
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status: object = 1
    try:
        status = run(app)
    except SystemExit as end:
        status = end.code
    except ClosedPipe:
        status = _PIPE_CLOSED
    except (DelugeServeError, ClientError) as error:
        if _debug:
            raise
        print_error(error.problem, error.remedy)
        status = error.exit_code
    except Exception as error:
        if _debug:
            raise
        print_error(
            f"Internal error: {type(error).__name__}: {reason_of(error).rstrip('.')}.",
            "Run again with 'delugeserve --debug ...' for the traceback, and report it as a bug.",
        )
    sys.exit(_flush_output() or status)  # type: ignore[arg-type]


def _flush_output() -> int | None:
    """Write what standard output still holds; the interpreter's own try would end in a traceback.

    Returns:
        The exit status if it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left is lost
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _PIPE_CLOSED
        lost = unwritable_output(error)
        print_error(lost.problem, lost.remedy)
        return lost.exit_code
    return None
