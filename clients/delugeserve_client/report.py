"""Measurements as a CSV file and as a picture."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from delugeserve_client.benchmark import Measurement
from delugeserve_client.errors import ClientError


def write_csv(measurements: Sequence[Measurement], path: str | os.PathLike[str]) -> None:
    """Write measurements as CSV, a line each, under a heading.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    names = [field.name for field in fields(Measurement)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for measurement in measurements:
        row = asdict(measurement)
        writer.writerow({key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()})
    _write(Path(path), text.getvalue().encode())


def save_plot(
    measurements: Sequence[Measurement], path: str | os.PathLike[str], subtitle: str = ""
) -> None:
    """Draw latency against throughput as PNG or SVG: a line for each batch size.

    Args:
        measurements: at least one, all of one model.
        path: the file; where its suffix is not ``.svg``, it becomes a PNG.
        subtitle: a second line for the title, such as the machine's name.

    Raises:
        ClientError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure_class, canvas_class, patheffects, ticker = require_matplotlib()
    figure = figure_class(figsize=(8, 5), dpi=150, layout="constrained")
    canvas_class(figure)
    axes = figure.add_subplot()
    for number, batch_size in enumerate(sorted({m.batch_size for m in measurements})):
        line = [m for m in measurements if m.batch_size == batch_size]
        line.sort(key=lambda m: m.concurrency)
        throughput = [m.images_per_s for m in line]
        colour = f"C{number}"
        name = f"batch {batch_size}"
        axes.plot(throughput, [m.p50_ms for m in line], "o-", color=colour, label=f"{name}, p50")
        axes.plot(
            throughput,
            [m.p99_ms for m in line],
            "^:",
            color=colour,
            label=f"{name}, p99",
            alpha=0.7,
        )
        for m in line:
            axes.annotate(
                str(m.concurrency),
                (m.images_per_s, m.p50_ms),
                xytext=(7, -8),
                textcoords="offset points",
                fontsize=9,
                color=colour,
                path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda latency, _: f"{latency:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(x=0.08, y=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput in images/s")
    axes.set_ylabel("latency of a request in ms")
    axes.grid(alpha=0.3)
    figure.legend(
        loc="outside right upper",
        title="numbers:\nrequests in flight",
        fontsize=8,
        title_fontsize=8,
    )
    axes.set_title(f"{measurements[0].model}: latency against throughput", loc="left", pad=18)
    axes.text(0, 1.015, subtitle, transform=axes.transAxes, fontsize=8, color="0.4")
    picture = io.BytesIO()
    figure.savefig(picture, format="svg" if Path(path).suffix.lower() == ".svg" else "png")
    _write(Path(path), picture.getvalue())


def require_matplotlib() -> tuple[Any, Any, Any, Any]:
    """Import what a plot needs, without touching a program's own matplotlib settings.

    Returns:
        matplotlib's Figure, its PNG canvas, and its modules of path effects and axis labels.

    Raises:
        ClientError: matplotlib is not installed.
    """
    try:
        from matplotlib import patheffects, ticker
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ClientError(
            f"A plot needs '{error.name}', which is not installed.",
            "Install it with: pip install 'delugeserve[benchmark]'",
        ) from error
    return Figure, FigureCanvasAgg, patheffects, ticker


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
