"""The findings of ``delugeserve doctor``, grouped by section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from delugeserve.cli.render.console import err_console, out

if TYPE_CHECKING:
    from delugeserve.doctor import Finding

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "bold red"),
    "absent": ("absent", "dim"),
}
_MARK_WIDTH = max(len(mark) for mark, _ in _MARKS.values())
_MAX_SUBJECT_WIDTH = 20


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings on standard output, and how many need attention on standard error.

    On a terminal the text is wrapped within its column. Elsewhere each finding is one line, and its
    remedy another.
    """
    # One width for all sections, so that their columns line up.
    width = min(max(len(finding.subject) for finding in findings), _MAX_SUBJECT_WIDTH)
    for number, (section, members) in enumerate(groupby(findings, lambda one: one.section)):
        out.print(Text(f"{chr(10) * bool(number)}{section}", style="bold"))
        if out.is_terminal:
            out.print(_table(list(members), width), soft_wrap=False)
        else:
            for finding in members:
                _print_lines(finding, width)
    counts = Counter(finding.status for finding in findings)
    err_console.print(
        ", ".join(
            f"{counts[status]} {status}{'s' * (counts[status] != 1)}"
            for status in ("problem", "warning")
        )
    )


def _table(findings: Sequence[Finding], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=_MARK_WIDTH, no_wrap=True)
    table.add_column(width=width, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n{finding.remedy}", style="cyan")
        table.add_row(Text(*_MARKS[finding.status]), Text(finding.subject), text)
    return table


def _print_lines(finding: Finding, width: int) -> None:
    mark, _ = _MARKS[finding.status]
    out.print(Text(f"{mark:<{_MARK_WIDTH}}  {finding.subject:<{width}}  {finding.text}"))
    if finding.remedy:
        out.print(Text(f"{'':<{_MARK_WIDTH}}  {'':<{width}}  {finding.remedy}"))
