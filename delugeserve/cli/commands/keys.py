"""``delugeserve keys``: the API keys of a server's clients."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from delugeserve.cli.options import Json
from delugeserve.cli.render.console import err_console, out, print_json, print_next, print_table


def command(
    action: Annotated[
        Literal["add", "list", "remove"],
        typer.Argument(help="Add a key for a client, list the clients, or remove a client's keys."),
    ],
    name: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Argument(metavar="NAME", help="Name of the client.", show_default=False),
    ] = None,
    file: Annotated[
        Path, typer.Option(metavar="FILE", help="File of the keys' SHA-256 digests.")
    ] = Path("keys.txt"),
    json: Json = False,
) -> None:
    """Manage the API keys of clients, for serve --keys.

    A key is printed once and not kept: the file has its SHA-256. A running server takes a change
    within a second.
    """
    from delugeserve.errors import UsageError
    from delugeserve.serving.front.keys import add_key, read_keys, remove_keys

    if (name is None) != (action == "list"):
        raise UsageError(
            f"The action '{action}' takes {'no name' if name else 'the name of a client'}.",
            f"Use: delugeserve keys {action}" + ("" if name else " NAME"),
        )
    if action == "add":
        key = add_key(file, name or "")
        if json:
            print_json({"name": name, "key": key})
        else:
            out.print(key, markup=False)
        err_console.print("Give this key to the client now: it cannot be shown again.")
        print_next(f"delugeserve serve --keys {shlex.quote(str(file))}")
    elif action == "remove":
        removed = remove_keys(file, name or "")
        if json:
            print_json({"name": name, "removed": removed})
        else:
            out.print(f"Removed {removed} {'key' if removed == 1 else 'keys'} of {name}.")
    else:
        keys = read_keys(file)
        if json:
            print_json([{"name": key.name, "sha256": key.digest} for key in keys])
        else:
            rows = [(key.name, key.digest[:16]) for key in keys]
            print_table(("client", "SHA-256"), rows, texts=2)
