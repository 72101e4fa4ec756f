"""Measurements as a CSV file and as a plot."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from delugeserve_client.errors import MissingPackageError
from delugeserve_client.measurement import Measurement


def write_csv(measurements: Sequence[Measurement], path: str | os.PathLike[str]) -> None:
    """Write measurements as CSV: a row of names, then one row per measurement.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    names = [field.name for field in fields(Measurement)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(measurement.rounded() for measurement in measurements)
    _write(Path(path), text.getvalue().encode())


def save_plot(
    measurements: Sequence[Measurement], path: str | os.PathLike[str], subtitle: str = ""
) -> None:
    """Plot latency against throughput as PNG or SVG: one colour per batch size.

    The line joins the median latencies, from few requests in flight to many; a bar reaches from
    each to its 99th percentile.

    Args:
        measurements: at least one, all of one model.
        path: the file; SVG where its suffix is ``.svg``, PNG otherwise.
        subtitle: second line of the title, such as the machine's name.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    matplotlib = import_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(8, 5), dpi=150, layout="constrained")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, batch_size in enumerate(sorted({m.batch_size for m in measurements})):
        line = [m for m in measurements if m.batch_size == batch_size]
        _draw_line(axes, sorted(line, key=lambda m: m.concurrency), f"C{number % 10}")
    ticker = matplotlib.ticker
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda latency, _: f"{latency:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.margins(x=0.08, y=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput (images/s)")
    axes.set_ylabel("latency of a request (ms)")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(
        loc="outside lower center",
        ncols=6,
        fontsize=8,
        frameon=False,
        title="point: p50, bar up to p99; number: requests in flight",
        title_fontsize=8,
    )
    axes.set_title(f"{measurements[0].model}: latency against throughput", loc="left", pad=18)
    axes.text(0, 1.015, subtitle, transform=axes.transAxes, fontsize=8, color="0.4")
    picture = io.BytesIO()
    figure.savefig(picture, format="svg" if Path(path).suffix.lower() == ".svg" else "png")
    _write(Path(path), picture.getvalue())


def _draw_line(axes: Any, line: Sequence[Measurement], colour: str) -> None:
    from matplotlib import patheffects

    throughput = [m.images_per_s for m in line]
    p50 = [m.p50_ms for m in line]
    above = [m.p99_ms - m.p50_ms for m in line]
    axes.errorbar(
        throughput,
        p50,
        yerr=([0] * len(line), above),
        fmt="o-",
        color=colour,
        ecolor=colour,
        elinewidth=1,
        capsize=3,
        markersize=5,
        label=f"batch size {line[0].batch_size}",
    )
    halo = patheffects.withStroke(linewidth=2.5, foreground="white")
    for m in line:
        # Below and to the right: the line rises to the right, and the bar is above the point.
        axes.annotate(
            str(m.concurrency),
            (m.images_per_s, m.p50_ms),
            xytext=(5, -5),
            textcoords="offset points",
            horizontalalignment="left",
            verticalalignment="top",
            fontsize=8,
            color=colour,
            path_effects=[halo],
        )


def import_matplotlib() -> Any:
    """Import what a plot needs, without touching a program's own matplotlib settings.

    Returns:
        The package, with its modules backends.backend_agg, figure and ticker loaded.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.ticker
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Plots need '{error.name}', which is not installed.",
            "Install it with: pip install 'delugeserve[benchmark]'",
            module=error.name or "matplotlib",
        ) from error
    return matplotlib


def _write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it, so that it is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
