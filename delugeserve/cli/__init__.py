"""The command line: one small module for each command, heavy imports inside the commands.

Standard output carries data, standard error everything said about it. Exit status: 0 for success,
1 for work that failed, 2 for what the user can mend, 130 for Ctrl-C, 143 for training that SIGTERM
has ended.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from delugeserve import __version__
from delugeserve.cli.commands import (
    ablation,
    benchmark,
    benchmark_engines,
    classify,
    connectivity,
    doctor,
    evaluate,
    export,
    inspect,
    models,
    profile,
    quickstart,
    runs,
    serve,
    train,
    verify,
)
from delugeserve.cli.render.console import err_console
from delugeserve.errors import DelugeServeError
from delugeserve_client.errors import ClientError

app = typer.Typer(
    name="delugeserve",
    help="DelugeNet image classifiers, from training to a production endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


for _module in (
    quickstart,
    models,
    profile,
    train,
    runs,
    ablation,
    evaluate,
    connectivity,
    export,
    verify,
    inspect,
    serve,
    classify,
    benchmark,
    benchmark_engines,
    doctor,
):
    app.command(_module.__name__.rpartition(".")[2].replace("_", "-"))(_module.command)


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        app()
    except (DelugeServeError, ClientError) as error:
        if _debug:
            raise
        err_console.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
