"""The options of ``delugeserve benchmark``: which belong together, and the files that it writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from delugeserve.cli.options import check_output_file, is_given
from delugeserve.errors import UsageError
from delugeserve.plotting import check_picture_path
from delugeserve.system.hardware import describe

if TYPE_CHECKING:
    from delugeserve.load.rows import Row

_log = logging.getLogger(__name__)

ScenarioName = Literal["closed-loop", "single-stream", "multi-stream", "server", "offline"]

_OF_WATERFALL = frozenset(
    {
        "model",
        "duration",
        "measurement_interval",
        "image",
        "waterfall",
        "repository",
        "json",
        "html",
    }
)
_OF_SCENARIOS: dict[str, tuple[ScenarioName, ...]] = {
    "concurrency": ("closed-loop",),
    "rate": ("server",),
    "latency_budget": ("server",),
    "precision": ("server",),
    "streams": ("multi-stream",),
    "batch_size": ("closed-loop", "single-stream", "server", "offline"),
    "output": ("server", "single-stream", "multi-stream", "offline"),  # LoadGen's files
}
_SAME = {"measurement_interval": "duration", "filename": "csv"}  # perf_analyzer's names


def choose_scenario(scenario: ScenarioName | None, *, budget: bool, rate: bool) -> ScenarioName:
    """Return the scenario, which follows from other options if it is not given.

    Args:
        scenario: as given.
        budget: whether there is a latency budget.
        rate: whether there are rates.
    """
    if scenario is None:
        return "server" if budget or rate else "closed-loop"
    if scenario == "server" and not (budget or rate):
        raise UsageError(
            "The server scenario needs a budget or a rate.",
            "Use --latency-budget 50ms to find the highest rate that keeps it, or --rate 100.",
        )
    return scenario


def refuse_unused(
    context: typer.Context, scenario: ScenarioName, *, waterfall: bool, search: bool
) -> None:
    """Refuse options that would have no effect, and those that are given twice.

    Args:
        context: the command line.
        scenario: the scenario.
        waterfall: whether the steps of one image are measured, and nothing else.
        search: whether a rate is searched.

    Raises:
        UsageError: there is one.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name, flag in flags.items():
        if name is None or not is_given(context, name):
            continue
        if name in _SAME and is_given(context, _SAME[name]):
            raise UsageError(f"{flag} and {flags[_SAME[name]]} are the same.", "Leave out one.")
        scenarios = _OF_SCENARIOS.get(name)
        if waterfall:
            if name not in _OF_WATERFALL:
                raise UsageError(f"{flag} has no effect with --waterfall.", f"Leave out {flag}.")
        elif name == "repository":
            raise UsageError(
                f"{flag} is for --waterfall; other tests ask a server that runs.",
                f"Leave out {flag}, or use --waterfall.",
            )
        elif scenarios is not None and scenario not in scenarios:
            raise UsageError(
                f"{flag} is for {', '.join(scenarios)}, not for {scenario}.",
                f"Leave out {flag}, or use --scenario {scenarios[0]}.",
            )
        elif name == "repeats" and search:
            raise UsageError(
                f"{flag} has no effect on a search, which confirms its result itself.",
                f"Leave out {flag}, or name rates with --rate.",
            )
        elif name == "precision" and not search:
            raise UsageError(
                f"{flag} is for a search, not for given rates.", f"Leave out {flag}, or --rate."
            )


def check_outputs(
    csv: Path | None, plot: Path | None, html: Path | None, output: Path | None
) -> None:
    """Find what would prevent the files before the measurement, not after it."""
    for path in (csv, plot, html):
        if path is not None:
            check_output_file(path)
    if plot is not None:
        check_picture_path(plot)
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"A report is written as HTML, not to {html}.", "Use a name in .html.")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is not a folder.", "Use another --output.")


def write_outputs(
    rows: Sequence[Row],
    csv: Path | None,
    plot: Path | None,
    html: Path | None,
    *,
    title: str,
    machine: str,
) -> None:
    """Write the files that were asked for."""
    if csv is not None:
        from delugeserve.load.perf_analyzer import write_csv

        write_csv(rows, csv)
        _log.info("Wrote %s.", csv)
    if plot is not None:
        from delugeserve.load.plots import save_plot

        save_plot(rows, plot, subtitle=describe())
        _log.info("Wrote %s.", plot)
    if html is not None:
        from delugeserve.load.report import write_report

        write_report(rows, html, title=title, machine=machine)
        _log.info("Wrote %s.", html)
