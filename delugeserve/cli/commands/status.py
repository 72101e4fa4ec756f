"""``delugeserve status``: what the running servers of this user are doing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.options import Json
from delugeserve.cli.render.console import err_console, out, print_json, print_next
from delugeserve.cli.render.status import print_status

if TYPE_CHECKING:
    from delugeserve.serving.fleet.status import ServerStatus

_WATCH_INTERVAL = 1.0  # seconds


def command(
    repository: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option(
            "--repository",
            help="Show servers of this model repository only. [dim]\\[default: all][/]",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again each second.")] = False,
    json: Json = False,
) -> None:
    """Show the servers that 'delugeserve serve' runs: replicas, releases, canary and last events.

    Exit status 1 if none is running.
    """
    if not watch:
        if not _show(repository, json=json):
            raise typer.Exit(1)
        return
    while True:
        if out.is_terminal and not json:
            out.clear()
        _show(repository, json=json)
        time.sleep(_WATCH_INTERVAL)


def _show(repository: Path | None, *, json: bool) -> list[ServerStatus]:
    from delugeserve.serving.fleet.status import find_servers

    servers = find_servers(repository)
    if json:
        print_json([to_json(one) for one in servers])
    elif servers:
        for server in servers:
            print_status(server)
    else:
        what = f" of {repository}" if repository else ""
        err_console.print(f"No server{what} is running.", markup=False)
        print_next("delugeserve serve")
    return servers
