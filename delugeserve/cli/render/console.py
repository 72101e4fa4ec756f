"""The two consoles: ``out`` for data, ``err_console`` for messages; tables, JSON and log lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from delugeserve.cli.render.safe_text import SafeText
from delugeserve.errors import Failure


class ClosedPipe(Exception):
    """The program that standard output is piped to has ended, such as ``head``.

    It is no OSError, since typer ends those of pipes itself.
    """


class _Console(Console):
    """A console that leaves it to the command line what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        if not self.stderr:
            raise ClosedPipe
        self._be_silent()

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # such as a full disk
            if not self.stderr:
                raise
            self._be_silent()

    def _be_silent(self) -> None:
        """Drop messages from now on: those that cannot be written do not stop the work."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Without emoji: rich would turn START:END:STEP into a picture.
out = _Console(highlight=False, soft_wrap=True, emoji=False)
err_console = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
for _console in (out, err_console):
    _console.push_render_hook(SafeText(_console))

_PACKAGES = ("delugeserve", "delugeserve_export", "delugeserve_client")
_UNLIMITED = 100_000  # columns: what is piped is not wrapped


def print_error(problem: str, remedy: str) -> None:
    """Print an error's two parts on standard error."""
    err_console.print(f"[bold red]error:[/] {escape(problem)} {escape(remedy)}")


def unwritable_output(error: OSError) -> Failure:
    """Return the error of what standard output leads to, such as a full disk."""
    return Failure(
        f"Standard output cannot be written: {error.strerror or error}.",
        "Free some space where it is written to, or write it elsewhere.",
    )


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    err_console.print(f"[bold yellow]warning:[/] {escape(text)}")


def print_next(command: str) -> None:
    """Suggest the next command to paste."""
    err_console.print(f"[dim]next:[/] [bold]{escape(command)}[/]")


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    try:
        print(format_json(value))  # noqa: T201
    except BrokenPipeError:
        raise ClosedPipe from None


def format_json(value: Any) -> str:
    """Return a value as indented JSON that standard output can encode."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(out.encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    return text


def print_table(
    headings: Iterable[str],
    rows: Iterable[Iterable[RenderableType]],
    *,
    title: str | None = None,
    texts: int = 1,
    console: Console = out,
    continued: Sequence[int] = (),
) -> None:
    """Print a table: fitted to a terminal, one line per row elsewhere.

    Args:
        headings: column headings.
        rows: cells, with markup.
        title: a line above the table.
        texts: number of columns, from the left, that hold text; the others hold figures.
        console: ``out`` or ``err_console``.
        continued: the least widths of the columns, for rows below a table that was printed with
            such widths; the headings are left out.
    """
    if title:
        console.print(f"[bold]{title}[/]")
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=not continued,
    )
    for index, heading in enumerate(headings):
        least = continued[index] if continued else None
        if index < texts:
            table.add_column(heading, overflow="fold", min_width=least)
        else:
            table.add_column(heading, justify="right", no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*row)
    if console.is_terminal:
        console.print(table, soft_wrap=False)
    else:
        # Console.print would limit the width to the console's own.
        segments = console.render(table, console.options.update(width=_UNLIMITED))
        lines = "".join(segment.text for segment in segments).splitlines()
        console.print(Text("\n".join(line.rstrip() for line in lines)))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and facts in two columns; facts wrap on a terminal only, empty ones are left out.

    Args:
        facts: texts by name, without markup.
    """
    shown = {name: fact for name, fact in facts.items() if fact}
    if out.is_terminal:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in shown.items():
            table.add_row(Text(name), Text(fact))
        out.print(table, soft_wrap=False)
        return
    width = max(map(len, shown), default=0) + 2
    for name, fact in shown.items():
        out.print(Text(f"{name:<{width}}{fact}"))


class _ConsoleHandler(logging.Handler):
    """Writes log records to ``err_console``, so that they do not collide with a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = escape(self.format(record))
        if record.levelno >= logging.WARNING:
            text = f"[bold yellow]{record.levelname.lower()}:[/] {text}"
        elif record.levelno < logging.INFO:
            text = f"[dim]{record.name}: {text}[/]"
        err_console.print(text)


def start_logging(level: str) -> None:
    """Show the log records of our packages on standard error.

    Args:
        level: the lowest level shown, such as ``"INFO"``.
    """
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [_ConsoleHandler()]
        logger.setLevel(level)
