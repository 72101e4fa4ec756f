"""Load tests as one HTML page without further files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from delugeserve._version import __version__
from delugeserve.load import plots
from delugeserve.load.rows import Row
from delugeserve.load.scenarios import Scenario
from delugeserve.load.waterfall import Step
from delugeserve.system.files import write_output
from delugeserve.system.imports import require

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class _Line:
    """A row of the first table."""

    cells: tuple[str, ...]
    valid: bool
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Picture:
    """A figure as base64."""

    title: str
    data: str


def write_report(
    rows: Sequence[Row],
    path: Path,
    *,
    title: str,
    machine: str = "",
    steps: Sequence[Step] = (),
) -> None:
    """Write a page with tables and figures.

    Args:
        rows: the tests; may be empty if there are steps.
        path: the file.
        title: the page's title.
        machine: lines about the machines that measured.
        steps: a waterfall.

    Raises:
        MissingExtraError: Jinja or matplotlib is not installed.
        UsageError: the file cannot be written.
    """
    environment: Any = require("jinja2", "benchmark").Environment(
        autoescape=True, trim_blocks=True, undefined=require("jinja2", "benchmark").StrictUndefined
    )
    results = [result for row in rows for result in row.results]
    before, after = (results[0].load_before, results[-1].load_after) if results else (None, None)
    loops = [result.scenario is Scenario.CLOSED_LOOP for result in results]
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        machine=machine,
        headings=_HEADINGS,
        rows=[_line(row) for row in rows],
        limits=list(dict.fromkeys(r.client_limit for r in results if r.client_limit)),
        pictures=_pictures(rows, machine),
        server_headings=_SERVER_HEADINGS,
        server=[cells for row in rows if (cells := _server(row))],
        steps=_bars(steps),
        version=__version__,
        scheduled=not all(loops),
        sent=any(loops),
        loadgen="" if all(loops) else _loadgen(),
        load="" if before is None or after is None else f"{before:.2f} before, {after:.2f} after",
    )
    with write_output(path) as beside:
        beside.write_text(page, encoding="utf-8")


_HEADINGS = (
    *("load", "batch size", "scheduled/s", "images/s"),
    *("p50", "p90", "p95", "p99", "p99.9", "max", "errors", "wrong"),
)
_SERVER_HEADINGS = ("load", "queue", "input", "infer", "output", "mean batch")


def _line(row: Row) -> _Line:
    result = row.first
    width = row.half_width(lambda result: result.images_per_s)
    cells = (
        row.name,
        str(result.batch_size),
        f"{result.scheduled_rate:,.4g}" if result.scheduled_rate else "",
        f"{row.mean_of(lambda result: result.images_per_s):,.0f}"
        + ("" if width is None else f" ± {width:,.0f}"),
        *(f"{value:.2f}" for value in row.percentiles_ms().values()),
        f"{row.max_ms:.2f}",
        f"{row.errors:,}",
        f"{row.wrong:,}",
    )
    return _Line(cells, row.valid, row.verdict, row.reasons)


def _server(row: Row) -> tuple[str, ...] | None:
    split = row.first.server
    if split is None:
        return None
    times = (
        *(split.queue_ms, split.compute_input_ms),
        *(split.compute_infer_ms, split.compute_output_ms),
    )
    return (row.name, *(f"{time:.2f}" for time in times), f"{split.executed_batch:.1f}")


def _pictures(rows: Sequence[Row], machine: str) -> list[_Picture]:
    if not rows:
        return []
    subtitle = machine.partition("\n")[0]
    figures = [plots.draw(rows, subtitle)]
    if len(rows) > 1:
        figures.append(plots.draw_percentiles(rows, subtitle))
    return [
        _Picture("latency", base64.b64encode(plots.as_png(figure)).decode("ascii"))
        for figure in figures
    ]


@dataclass(frozen=True)
class _Bar:
    """A step of a waterfall with its place on the page, in percent."""

    name: str
    total: str
    added: str
    left: float
    width: float


def _bars(steps: Sequence[Step]) -> list[_Bar]:
    longest = max((step.total_ms for step in steps), default=1.0)
    return [
        _Bar(
            step.name,
            f"{step.total_ms:.3f}",
            f"{step.added_ms:+.3f}",
            100 * max(0.0, min(step.total_ms, step.total_ms - step.added_ms)) / longest,
            100 * abs(step.added_ms) / longest,
        )
        for step in steps
    ]


def _loadgen() -> str:
    try:
        return version("mlcommons-loadgen")
    except PackageNotFoundError:
        return ""
