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

_TYPES = {"str": "TEXT", "int": "N", "float": "NUMBER", "path": "PATH"}


class Command(TyperCommand):
    """A command whose ``--help`` shows types as ``PATH``, and none for switches."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.help:  # the docstring's paragraphs, without its line breaks
            self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each with the metavar that ``--help`` shows."""
        return _with_metavars(super().get_params(ctx), ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; a required argument without braces."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]


class Group(TyperGroup):
    """The command line itself, with the same metavars."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each with the metavar that ``--help`` shows."""
        return _with_metavars(super().get_params(ctx), ctx)


def _with_metavars(params: list[Any], context: Any) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
        elif param.param_type_name == "argument":
            param.metavar = param.metavar or param.name.upper()
            param.display_type_rich = _no_type  # the metavar and the help text say enough
        elif param.metavar is None:
            name = str(param.display_type(context)).strip("<>").removesuffix(" range")
            param.metavar = _TYPES.get(name, name)
    return params


def _no_type(**_: Any) -> None:
    return None


def run(app: typer.Typer) -> int:
    """Run the command line.

    Usage errors are printed as every other error is: one sentence, one remedy.

    Returns:
        The exit status.
    """
    try:
        status = app(prog_name="delugeserve", standalone_mode=False)
    except typer.Abort:
        return 130
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
            return error.exit_code
        text = error.format_message().replace("Value error, ", "")
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
