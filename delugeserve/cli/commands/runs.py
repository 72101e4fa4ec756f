"""``delugeserve runs``: training runs, their errors and their settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from delugeserve.cli.options import Csv, Json, Plot, check_output_file, with_default
from delugeserve.cli.render.console import err_console, print_json, print_table, print_warning
from delugeserve.cli.render.csv_file import write_csv
from delugeserve.errors import UsageError

if TYPE_CHECKING:
    from delugeserve.training.records import RunRecord

Order = Literal["name", "error", "time"]

_ORDERS: dict[Order, Callable[[RunRecord], Any]] = {
    "name": lambda run: run.name,
    # Runs without an epoch come last.
    "error": lambda run: (run.top1_error is None, run.top1_error),
    "time": lambda run: (not run.epochs, run.seconds),
}


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDERS",
            help=with_default("Run folders, or folders of runs.", "runs"),
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the settings in which the runs differ.")
    ] = False,
    sort: Annotated[Order, typer.Option(help="Sort by name, top-1 error or total time.")] = "name",
    plot: Plot = None,
    csv: Csv = None,
    json: Json = False,
    curves: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """List training runs, compare their settings, plot their learning curves."""
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.training.curves import draw_curves
    from delugeserve.training.records import compare_settings

    plot = plot or curves
    if plot is not None:
        check_picture_path(plot)
    if csv is not None:
        check_output_file(csv)
    runs = sorted(_read(folders or [Path("runs")]), key=_ORDERS[sort])
    readable = [run for run in runs if run.status != "damaged"]
    differences: dict[str, list[Any]] = {}
    if compare:
        if len(readable) < 2:
            raise UsageError(
                "There is nothing to compare: fewer than two runs can be read.",
                "Give the folders of two or more runs.",
            )
        differences = compare_settings(readable)
    if plot is not None:
        if not any(run.epochs for run in readable):
            raise UsageError("No run has a complete epoch to plot.", "Leave out --plot.")
        save_figure(draw_curves(readable), plot)
    if csv is not None:
        _write_csv(runs, csv)

    if json:
        names = [run.name for run in readable]
        differ = {key: dict(zip(names, row, strict=True)) for key, row in differences.items()}
        listed = [_describe(run) for run in runs]
        print_json({"runs": listed, "differences": differ} if compare else listed)
    else:
        _print_runs(runs)
        if compare:
            _print_differences(readable, differences)
    for run in runs:
        if run.reason is not None:
            print_warning(f"{run.path} is damaged: {run.reason}.")
    for written in (plot, csv):
        if written is not None:
            err_console.print(f"written to {written}", markup=False)


def _read(folders: Iterable[Path]) -> list[RunRecord]:
    """Read every run once; runs that share a name are listed by their paths."""
    from delugeserve.training.records import read_runs

    found = {run.path.resolve(): run for folder in folders for run in read_runs(folder)}
    names = Counter(run.name for run in found.values())
    return [
        run if names[run.name] == 1 else replace(run, name=str(run.path)) for run in found.values()
    ]


def _print_runs(runs: Sequence[RunRecord]) -> None:
    from rich.text import Text

    print_table(
        ("run", "model", "recipe", "status", "epochs", "best", "error %", "s/epoch", "total time"),
        (
            (
                Text(run.name),
                Text(_title(run)),
                run.config["recipe"]["name"] if run.config else "-",
                run.status,
                f"{len(run.epochs)}/{run.config['recipe']['epochs']}" if run.config else "-",
                str(run.best.epoch) if run.best else "-",
                _figure(run.top1_error, ".2f"),
                _figure(run.seconds_per_epoch, ".1f"),
                str(timedelta(seconds=round(run.seconds))) if run.epochs else "-",
            )
            for run in runs
        ),
        texts=4,
    )


def _title(run: RunRecord) -> str:
    """Return the name of a run's network; if it is not the model's, with the model's."""
    model = run.config.get("model", "-")
    name = run.network_name
    return model if name in (None, model) else f"{name} ({model})"


def _print_differences(runs: Sequence[RunRecord], differences: dict[str, list[Any]]) -> None:
    from rich.markup import escape
    from rich.text import Text

    if not differences:
        err_console.print("The runs have the same settings.")
        return
    print_table(
        ("setting", *(escape(run.name) for run in runs)),
        (
            (name, *(Text("-" if value is None else str(value)) for value in row))
            for name, row in differences.items()
        ),
        title="\ndifferent settings",
        texts=1 + len(runs),
    )


def _write_csv(runs: Sequence[RunRecord], path: Path) -> None:
    write_csv(
        path,
        ("run", "path", "network", "model", "recipe", "status", "epochs", "top1_error", "seconds"),
        (
            (
                run.name,
                run.path,
                run.network_name,
                run.config.get("model"),
                run.config["recipe"]["name"] if run.config else None,
                run.status,
                len(run.epochs),
                run.top1_error,
                run.seconds,
            )
            for run in runs
        ),
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
        "best_epoch": run.best.epoch if run.best else None,
        "top1_error": run.top1_error,
        "seconds_per_epoch": run.seconds_per_epoch,
        "seconds": run.seconds,
    }
