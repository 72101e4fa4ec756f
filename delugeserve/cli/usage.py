"""How the command line shows typer's own errors and its switches."""

from __future__ import annotations

import ast
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from delugeserve.cli.render.console import print_error
from delugeserve.errors import nearest_name

_CHOICES = re.compile(r"(?P<given>'[^']*') is not one of (?P<choices>('[^']*'(, )?)+)\.")


class Command(TyperCommand):
    """A command whose switches show no type in ``--help``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; a switch's type column is empty instead of ``<bool>``."""
        return _untyped_switches(super().get_params(ctx))


class Group(TyperGroup):
    """The command line itself, likewise."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; a switch's type column is empty instead of ``<bool>``."""
        return _untyped_switches(super().get_params(ctx))


def _untyped_switches(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def run(app: typer.Typer) -> int:
    """Run the command line.

    Usage errors are printed as every other error is: one sentence, one remedy.

    Returns:
        The exit status.
    """
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        return 130
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
            return error.exit_code
        text = error.format_message()
        print_error(text if text.endswith((".", "?")) else f"{text}.", _remedy(error))
        return error.exit_code
    return status if isinstance(status, int) else 0


def _remedy(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "delugeserve"
    found = _CHOICES.search(error.format_message())
    if found:
        given = ast.literal_eval(found["given"])
        nearest = nearest_name(given, re.findall(r"'([^']*)'", found["choices"]))
        if nearest:
            return f"Did you mean '{nearest}'?"
    return f"See '{command} --help'."
