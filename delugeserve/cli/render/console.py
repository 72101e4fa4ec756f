"""The two consoles: data goes to standard output, everything said about it to standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

out = Console()
err_console = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


def print_table(
    headings: Iterable[str],
    rows: Iterable[Iterable[RenderableType]],
    *,
    title: str | None = None,
    texts: int = 1,
) -> None:
    """Print a table on standard output.

    Args:
        headings: of the columns.
        rows: cells, with markup.
        title: a line above.
        texts: how many columns, from the left, hold text; the others hold figures.
    """
    if title:
        out.print(f"[bold]{title}[/]", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        if index < texts:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_next(command: str) -> None:
    """Suggest the next command to paste."""
    err_console.print(f"[dim]next:[/] [bold]{command}[/]", soft_wrap=True)
