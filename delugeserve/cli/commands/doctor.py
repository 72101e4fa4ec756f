"""``delugeserve doctor``: what is here, what is missing, what is wrong, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from delugeserve.cli.render.console import err_console, out, print_json

if TYPE_CHECKING:
    from delugeserve.doctor import Finding

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "bold red"),
    "absent": ("not here", "dim"),
}
_WIDEST_SUBJECT = 20


def command(
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository to examine. Default: model_repository, if there."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine machine, installation, server and repository; exit 1 if there is a problem."""
    from delugeserve.artifacts.repository import list_names
    from delugeserve.doctor import examine

    if repository is not None:
        list_names(repository)  # must be there, as it was named
    with err_console.status("examining"):
        findings = examine(repository or Path("model_repository"))
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        _print_findings(findings)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


def _print_findings(findings: Sequence[Finding]) -> None:
    # One width for all sections, so that their columns stand in line.
    width = min(max(len(finding.subject) for finding in findings), _WIDEST_SUBJECT)
    for number, (section, members) in enumerate(groupby(findings, lambda one: one.section)):
        out.print(Text(f"{chr(10) * bool(number)}{section}", style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(width=max(len(mark) for mark, _ in _MARKS.values()), no_wrap=True)
        table.add_column(width=width, overflow="fold")
        table.add_column(overflow="fold")
        for finding in members:
            told = Text(finding.text)
            if finding.remedy:
                told.append(f"\n{finding.remedy}", style="cyan")
            table.add_row(Text(*_MARKS[finding.status]), Text(finding.subject), told)
        out.print(table)
    counts = Counter(finding.status for finding in findings)
    err_console.print(
        ", ".join(
            f"{counts[status]} {status}{'s' * (counts[status] != 1)}"
            for status in ("problem", "warning")
        )
    )
