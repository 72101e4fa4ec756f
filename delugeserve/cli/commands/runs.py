"""``delugeserve runs``: what training runs have come to, and what sets them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from delugeserve.training.records import RunRecord

_ORDERS: dict[str, Callable[[RunRecord], Any]] = {
    "name": lambda run: run.name,
    # Runs without an epoch come last.
    "error": lambda run: (run.top1_error is None, run.top1_error),
    "time": lambda run: (not run.epochs, run.seconds),
}


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, or of single runs.", show_default="runs"),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the settings in which the runs differ.")
    ] = False,
    sort: Annotated[str, typer.Option(help="By name, error or time.")] = "name",
    curves: Annotated[
        Path | None, typer.Option(help="Draw the learning curves to this PNG or SVG file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List training runs, compare them, draw their learning curves."""
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.training.curves import draw_curves
    from delugeserve.training.records import compare_settings

    if sort not in _ORDERS:
        raise UnknownNameError("order", sort, _ORDERS)
    if curves is not None:
        check_picture_path(curves)
    runs = sorted(_read(folders or [Path("runs")]), key=_ORDERS[sort])
    whole = [run for run in runs if run.status != "damaged"]
    differences: dict[str, list[Any]] = {}
    if compare:
        if len(whole) < 2:
            raise UsageError(
                "There is nothing to compare: fewer than two runs can be read.",
                "Give the folders of two or more.",
            )
        differences = compare_settings(whole)
    if curves is not None:
        if not any(run.epochs for run in whole):
            raise UsageError("No run has a whole epoch to draw.", "Leave --curves away.")
        save_figure(draw_curves(whole), curves)

    if json:
        names = [run.name for run in whole]
        differ = {key: dict(zip(names, row, strict=True)) for key, row in differences.items()}
        listed = [_describe(run) for run in runs]
        print_json({"runs": listed, "differences": differ} if compare else listed)
    else:
        _print_runs(runs)
        if compare:
            _print_differences(whole, differences)
    for run in runs:
        if run.reason is not None:
            err_console.print(
                f"{run.path} is damaged: {run.reason}", style="red", markup=False, soft_wrap=True
            )
    if curves is not None:
        err_console.print(f"learning curves drawn to {curves}", markup=False, soft_wrap=True)


def _read(folders: Iterable[Path]) -> list[RunRecord]:
    """Read every run once; those that share a name go by their paths."""
    from delugeserve.training.records import read_runs

    found = {run.path.resolve(): run for folder in folders for run in read_runs(folder)}
    names = Counter(run.name for run in found.values())
    return [
        run if names[run.name] == 1 else replace(run, name=str(run.path)) for run in found.values()
    ]


def _print_runs(runs: Sequence[RunRecord]) -> None:
    from rich.text import Text

    print_table(
        ("run", "model", "recipe", "status", "epochs", "error %", "s/epoch", "time"),
        (
            (
                Text(run.name),
                run.config.get("model", "-"),
                run.config["recipe"]["name"] if run.config else "-",
                run.status,
                f"{len(run.epochs)}/{run.config['recipe']['epochs']}" if run.config else "-",
                _figure(run.top1_error, ".2f"),
                _figure(run.seconds_per_epoch, ".1f"),
                str(timedelta(seconds=round(run.seconds))) if run.epochs else "-",
            )
            for run in runs
        ),
        texts=4,
    )


def _print_differences(runs: Sequence[RunRecord], differences: dict[str, list[Any]]) -> None:
    from rich.markup import escape
    from rich.text import Text

    if not differences:
        err_console.print("the settings are the same")
        return
    print_table(
        ("setting", *(escape(run.name) for run in runs)),
        (
            (name, *(Text("-" if value is None else str(value)) for value in row))
            for name, row in differences.items()
        ),
        title="\nwhere the settings differ",
        texts=1 + len(runs),
    )


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _describe(run: RunRecord) -> dict[str, Any]:
    return {
        "name": run.name,
        "path": str(run.path),
        "status": run.status,
        "reason": run.reason,
        "config": run.config,
        "environment": run.environment,
        "metrics": run.metrics,
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "top1_error": run.top1_error,
        "seconds_per_epoch": run.seconds_per_epoch,
        "seconds": run.seconds,
    }
