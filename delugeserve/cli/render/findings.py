"""The findings of ``delugeserve doctor``, grouped by section."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

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
_MIN_TEXT_WIDTH = 20


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings on standard output, and how many need attention on standard error.

    On a terminal texts are wrapped within their column. Remedies, and words longer than a line such
    as paths, are not broken, so that they can be copied.
    """
    # One width for all sections, so that their columns line up.
    width = min(max(len(finding.subject) for finding in findings), _MAX_SUBJECT_WIDTH)
    for number, (section, members) in enumerate(groupby(findings, lambda one: one.section)):
        out.print(Text(f"{chr(10) * bool(number)}{section}", style="bold"))
        for finding in members:
            _print_finding(finding, width)
    counts = Counter(finding.status for finding in findings)
    err_console.print(
        ", ".join(
            f"{counts[status]} {status}{'s' * (counts[status] != 1)}"
            for status in ("problem", "warning")
        )
    )


def _print_finding(finding: Finding, width: int) -> None:
    mark, style = _MARKS[finding.status]
    indent = " " * (_MARK_WIDTH + 2 + width + 2)
    first, *others = _lines(finding.text, out.width - len(indent))
    subject = f"{finding.subject:<{width}}"
    out.print(Text.assemble((f"{mark:<{_MARK_WIDTH}}", style), f"  {subject}  {first}"))
    for line in others:
        out.print(Text(f"{indent}{line}"))
    if finding.remedy:
        out.print(Text.assemble(indent, (finding.remedy, "cyan")))


def _lines(text: str, width: int) -> list[str]:
    if not out.is_terminal:
        return [text]
    wrapped = textwrap.wrap(
        text, max(width, _MIN_TEXT_WIDTH), break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [""]
