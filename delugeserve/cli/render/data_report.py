"""A source of images as ``data`` and ``train`` print it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from delugeserve.cli.render.console import out, print_table, print_warning
from delugeserve.data.report import DataReport

_ROWS = 30


def print_data_report(report: DataReport, console: Console = out) -> None:
    """Print counts, sizes and what was skipped; findings are warnings on standard error.

    Args:
        report: the summary.
        console: ``out``, or ``err_console`` where standard output is for something else.
    """
    splits = list(report.counts)
    console.print(f"[bold]{escape(report.source)}[/]: {escape(_summary(report))}")
    rows = [
        (escape(name), *(f"{report.counts[split][label]:,}" for split in splits))
        for label, name in enumerate(report.class_names)
    ]
    if len(rows) > _ROWS:
        more = len(rows) - _ROWS + 1
        rows = [*rows[: _ROWS - 1], (f"... {more:,} more classes", *([""] * len(splits)))]
    total = ("[bold]all[/]", *(f"{sum(report.counts[split]):,}" for split in splits))
    print_table(("class", *splits), [*rows, total], console=console)
    for line in _notes(report):
        console.print(f"[dim]{escape(line)}[/]")
    for finding in report.findings:
        print_warning(str(finding))


def _summary(report: DataReport) -> str:
    classes = len(report.class_names)
    text = f"{report.form}, {report.images:,} images of {classes:,} classes"
    return f"{text}, {report.sizes} pixels" if report.sizes else text


def _notes(report: DataReport) -> list[str]:
    notes = []
    if report.held_out is not None:
        notes.append(
            f"The validation split is {report.held_out:.0%} of the training images of each class;"
            " --val-fraction changes that."
        )
    if report.measured < report.images:
        notes.append(f"Sizes are those of {report.measured:,} images.")
    hidden = sum(skipped.kinds.get("hidden", 0) for skipped in report.skipped.values())
    if hidden and not any(finding.kind == "skipped" for finding in report.findings):
        notes.append(f"Hidden files, which are not read: {hidden:,}.")
    found = report.duplicates
    if found is not None:
        count = f"all {found.total:,}" if found.compared == found.total else f"{found.compared:,}"
        none = "" if found.within or found.across else ": no image occurs twice"
        notes.append(f"Compared the contents of {count} image files{none}.")
    return notes
