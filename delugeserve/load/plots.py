"""Load tests as figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.load.histogram import merge, percentiles_ms
from delugeserve.load.rows import Row
from delugeserve.load.scenarios import Scenario
from delugeserve.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOOD, _BAD, _LINES = "#2a7f62", "#c0392b", ("#1f4e79", "#e08e0b", "#7a3e9d")
# Nines on an even scale: 50, 90, 99, 99.9, 99.99.
_CURVE = tuple(100 - 100 * 0.5**n for n in np.arange(0.5, 14, 0.5).tolist())
_TICKS = (50, 90, 95, 99, 99.9, 99.99)


def save_plot(rows: Sequence[Row], path: Path, subtitle: str = "") -> None:
    """Write the figure that suits the scenario as PNG or SVG.

    Args:
        rows: at least one, of one model.
        path: the file.
        subtitle: a second line of the title, such as the machine's name.

    Raises:
        UsageError: the path has another suffix, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    save_figure(draw(rows, subtitle), path)


def draw(rows: Sequence[Row], subtitle: str = "") -> Figure:
    """Return the figure that suits the scenario: by rate, by throughput, or by percentile."""
    if sum(row.first.scheduled_rate is not None for row in rows) > 1:
        return draw_rates([row for row in rows if row.first.scheduled_rate], subtitle)
    loops = [row for row in rows if row.first.scenario is Scenario.CLOSED_LOOP]
    if len(loops) > 1:
        return draw_throughput(loops, subtitle)
    return draw_percentiles(rows, subtitle)


def draw_rates(rows: Sequence[Row], subtitle: str = "") -> Figure:
    """Draw latency against the rate of arrivals, with the budget."""
    figure, axes = _axes(rows, "latency against the rate of arrivals", subtitle)
    rows = sorted(rows, key=lambda row: row.first.scheduled_rate or 0)
    rates = [row.first.scheduled_rate or 0 for row in rows]
    for name, colour in zip(("50", "99", "99.9"), _LINES, strict=True):
        values = [row.percentiles_ms()[name] for row in rows]
        axes.plot(rates, values, "-", color=colour, label=f"p{name}", linewidth=1.5)
        axes.scatter(rates, values, s=14, color=colour)
    result = rows[0].first
    at = [row.mean_of(lambda result: result.at_percentile_ms) for row in rows]
    for valid, marker, colour in ((True, "o", _GOOD), (False, "X", _BAD)):
        points = [(x, y) for x, y, row in zip(rates, at, rows, strict=True) if row.valid is valid]
        if points:
            axes.scatter(
                *zip(*points, strict=True),
                s=60,
                marker=marker,
                facecolors="none" if valid else colour,
                edgecolors=colour,
                linewidths=1.6,
                label="VALID" if valid else "INVALID",
                zorder=3,
            )
    if result.budget_ms is not None:
        axes.axhline(result.budget_ms, color=_BAD, linestyle="--", linewidth=1)
        axes.annotate(
            f"budget: p{result.percentile * 100:g} <= {result.budget_ms:g} ms",
            (0, result.budget_ms),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8,
            color=_BAD,
        )
    axes.set_xlabel("scheduled requests/s")
    axes.set_ylabel("latency from the scheduled time (ms)")
    _log_scale(axes)
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def draw_throughput(rows: Sequence[Row], subtitle: str = "") -> Figure:
    """Draw latency against throughput, a colour per batch size; bars reach the 99th percentile."""
    figure, axes = _axes(rows, "latency against throughput", subtitle)
    for number, size in enumerate(sorted({row.first.batch_size for row in rows})):
        line = sorted(
            (row for row in rows if row.first.batch_size == size),
            key=lambda row: row.first.in_flight or 0,
        )
        x = [row.mean_of(lambda result: result.images_per_s) for row in line]
        p50 = [row.percentiles_ms()["50"] for row in line]
        above = [row.percentiles_ms()["99"] - low for row, low in zip(line, p50, strict=True)]
        axes.errorbar(
            x,
            p50,
            yerr=([0] * len(line), above),
            fmt="o-",
            color=f"C{number % 10}",
            elinewidth=1,
            capsize=3,
            markersize=5,
            label=f"batch size {size}",
        )
        for row, where in zip(line, zip(x, p50, strict=True), strict=True):
            # Below and to the right: the line rises to the right, and the bar is above the point.
            axes.annotate(
                str(row.first.in_flight),
                where,
                xytext=(5, -5),
                textcoords="offset points",
                verticalalignment="top",
                fontsize=8,
                color=f"C{number % 10}",
            )
    axes.set_xlabel("throughput (images/s)")
    axes.set_ylabel("latency of a request (ms)")
    _log_scale(axes)
    axes.set_xlim(left=0)
    figure.legend(
        loc="outside lower center",
        ncols=6,
        fontsize=8,
        frameon=False,
        title="point: p50, bar up to p99; number: requests in flight",
        title_fontsize=8,
    )
    return figure


def draw_percentiles(rows: Sequence[Row], subtitle: str = "") -> Figure:
    """Draw latency by percentile, with as much room for each further nine."""
    figure, axes = _axes(rows, "latency by percentile", subtitle)
    for number, row in enumerate(rows[:_MOST_LINES]):
        histogram = merge(result.histogram for result in row.results)
        count = sum(result.queries for result in row.results)
        # A percentile beyond the last query would only repeat the largest latency.
        curve = [at for at in _CURVE if at <= 100 * (1 - 1 / max(count, 2))]
        values = percentiles_ms(histogram, curve)
        axes.plot(
            [_nines(at) for at in curve],
            list(values.values()),
            color=f"C{number % 10}",
            linewidth=1.5,
            label=row.name,
        )
    largest = 100 * (1 - 1 / max(2, *(result.queries for row in rows for result in row.results)))
    ticks = [at for at in _TICKS if at <= largest]
    axes.set_xticks([_nines(at) for at in ticks], [f"{at:g}" for at in ticks])
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency of a request (ms)")
    _log_scale(axes)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG image."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


_MOST_LINES = 10  # as many colours as there are


def _nines(percentile: float) -> float:
    return float(-np.log10(1 - percentile / 100))


def _axes(rows: Sequence[Row], title: str, subtitle: str) -> tuple[Figure, Any]:
    figure = new_figure(8, 5)
    axes: Any = figure.add_subplot()
    axes.set_title(f"{rows[0].first.model}: {title}", loc="left", pad=18)
    axes.text(0, 1.015, subtitle, transform=axes.transAxes, fontsize=8, color="0.4")
    axes.grid(alpha=0.3)
    axes.margins(x=0.08, y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _log_scale(axes: Any) -> None:
    from matplotlib import ticker

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda latency, _: f"{latency:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
